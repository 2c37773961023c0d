"""From a model reference to a directory of safetensors that stock transformers loads."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyllm.core.artifact import sync_tree
from easyllm.core.errors import UserError, problem
from easyllm.core.inputs import Input
from easyllm.core.progress import note

if TYPE_CHECKING:
    import torch


def local_model(source: Input, cache_dir: Path, stage: str) -> Path:
    """The directory of ``source``'s weights, config and tokenizer.

    A .gguf is dequantised to fp32 once and kept in the cache; ``hf:`` and ``modelscope:`` ids are downloaded
    by their own clients. Raises UserError BASE-001 when it is not to be had.
    """
    if source.path is not None and source.path.is_dir():
        return source.path
    if source.path is not None and source.path.suffix == ".gguf":
        return _from_gguf(source.path, str(source.digest), cache_dir)
    scheme, _, name = source.ref.partition(":")
    if scheme == "hf":
        return _from_hub(name, stage, source)
    if scheme == "modelscope":
        return _from_modelscope(name, stage, source)
    raise UserError(
        problem("BASE-001", stage=stage, key=f"{stage}.{source.role}", ref=source.ref, path=str(source.path))
    )


def _from_gguf(path: Path, digest: str, cache_dir: Path) -> Path:
    final = cache_dir / "models" / f"{path.stem}-{digest[:12]}"
    if final.is_dir():
        return final
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    note(f"dequantising {path.name} to fp32 once, into {final}")
    partial = final.with_name(f"{final.name}.partial.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    # Without dequantize=True the model is dense but marked quantised: it can be neither saved nor trained.
    loaded = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # A GGUF tokenizer loses its length limit (1e30); without it nothing refuses an over-long prompt.
    tokenizer.model_max_length = loaded.config.max_position_embeddings
    loaded.config.use_cache = True
    loaded.save_pretrained(partial, safe_serialization=True)
    tokenizer.save_pretrained(partial)
    sync_tree(partial)
    os.rename(partial, final)
    return final


def _from_hub(name: str, stage: str, source: Input) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]  # no pickles, no code
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise _unreachable(stage, source, error) from error


def _from_modelscope(name: str, stage: str, source: Input) -> Path:
    try:
        from modelscope import snapshot_download  # type: ignore[import-not-found]  # an optional package
    except ImportError as error:
        raise UserError(problem("BASE-004", stage=stage, key=f"{stage}.{source.role}", ref=source.ref)) from error
    try:
        return Path(snapshot_download(name))
    except (OSError, ValueError) as error:
        raise _unreachable(stage, source, error) from error


def _unreachable(stage: str, source: Input, error: Exception) -> UserError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return UserError(
        problem("BASE-003", stage=stage, key=f"{stage}.{source.role}", ref=source.ref, reason=reason)
    )


def choose_dtype(device: "torch.device") -> tuple["torch.dtype", str]:
    """The dtype to compute in, and why."""
    import torch

    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "the GPU computes bf16 natively"
        return torch.float16, "the GPU has no native bf16 (compute capability below 8.0)"
    flags = cpu_flags()
    if {"avx512_bf16", "amx_bf16"} & flags:
        return torch.bfloat16, "the CPU has bf16 instructions"
    return torch.float32, "the CPU has no bf16 instructions: bf16 products are about 70 times slower there"


def cpu_flags() -> set[str]:
    """Instruction-set flags of this CPU as Linux names them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return set()
    for line in text.splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()
