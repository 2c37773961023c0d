"""From a model reference to a directory of safetensors that stock transformers loads."""

import io
import json
import os
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyllm.core.artifact import read_manifest, sync_tree
from easyllm.core.digest import Digests
from easyllm.core.errors import UserError, problem
from easyllm.core.inputs import Input, content_digest
from easyllm.core.messages import say
from easyllm.core.progress import note

if TYPE_CHECKING:
    import torch


TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
MODEL_FILES = ("*.safetensors", *TOKENIZER_FILES)
"""No pickles, no code."""


def local_model(source: Input, cache_dir: Path, stage: str) -> Path:
    """The directory of ``source``'s weights, config and tokenizer.

    A .gguf is dequantised to fp32 once and kept in the cache; ``hf:`` and ``modelscope:`` ids are downloaded
    by their own clients. Raises UserError BASE-001 when it is not to be had, BASE-007 when the .gguf cannot be read.
    """
    if source.path is not None and source.path.is_dir():
        return source.path
    if source.path is not None and source.path.suffix == ".gguf":
        try:
            return _from_gguf(source.path, str(source.digest), cache_dir)
        except Unreadable as error:
            told: dict[str, Any] = {"file": source.path, "reason": _first_line(error)}
            raise UserError(problem("BASE-007", stage=stage, key=f"{stage}.{source.role}", **told)) from error
    scheme, _, name = source.ref.partition(":")
    if scheme == "hf":
        return _from_hub(name, stage, source)
    if scheme == "modelscope":
        return _from_modelscope(name, stage, source)
    raise UserError(
        problem("BASE-001", stage=stage, key=f"{stage}.{source.role}", ref=source.ref, path=str(source.path))
    )


def present_model(source: Input, cache_dir: Path) -> Path | None:
    """Where ``local_model`` would find it without downloading or dequantising anything; None where it is not yet."""
    scheme, _, name = source.ref.partition(":")
    if source.stage is not None and source.manifest is None:
        return None
    if source.path is not None and source.path.suffix == ".gguf":
        made = _dequantised(source.path, str(source.digest), cache_dir)
        return made if made.is_dir() else None
    if source.path is None and scheme == "hf":
        return _in_hub_cache(name)
    return source.path


def _in_hub_cache(name: str) -> Path | None:
    """The snapshot of a model whose weights are all there."""
    from huggingface_hub import try_to_load_from_cache

    from easyllm.core.families.weights import weight_files

    config = try_to_load_from_cache(name, "config.json")
    directory = Path(config).parent if isinstance(config, str) else None
    if directory is None:
        return None
    files = weight_files(directory)
    return directory if files and all(file.is_file() for file in files) else None


def local_tokenizer(source: Input, cache_dir: Path, stage: str) -> Path:
    """The directory of ``source``'s tokenizer; of an ``hf:`` id the weights stay where they are."""
    scheme, _, name = source.ref.partition(":")
    if source.path is None and scheme == "hf":
        return _from_hub(name, stage, source, TOKENIZER_FILES)
    return local_model(source, cache_dir, stage)


def _dequantised(path: Path, digest: str, cache_dir: Path) -> Path:
    return cache_dir / "models" / f"{path.stem}-{digest[:12]}"


class Unreadable(Exception):
    """What transformers says of a .gguf file that it cannot read."""


def _from_gguf(path: Path, digest: str, cache_dir: Path) -> Path:
    """Raises Unreadable where the file is cut, or no such file at all."""
    final = _dequantised(path, digest, cache_dir)
    if final.is_dir():
        return final
    from transformers import GenerationConfig

    quiet_libraries()
    note(say("dequantising", name=path.name, path=final))
    try:
        loaded, tokenizer = _read_gguf(path)
    except (OSError, ValueError, LookupError, TypeError, OverflowError, struct.error) as error:
        raise Unreadable(_first_line(error)) from error
    partial = final.with_name(f"{final.name}.partial.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # A GGUF tokenizer loses its length limit (1e30); without it nothing refuses an over-long prompt.
    tokenizer.model_max_length = loaded.config.max_position_embeddings
    loaded.config.use_cache = True
    # A GGUF carries no generation settings; transformers would fill the file with guesses from the model config.
    loaded.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    loaded.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    _tidy(partial)
    sync_tree(partial)
    os.rename(partial, final)
    return final


def _read_gguf(path: Path) -> tuple[Any, Any]:
    """(model in fp32, tokenizer) of the file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    # Without dequantize=True the model is dense but marked quantised: it can be neither saved nor trained.
    with _bars_on_terminals_only():
        loaded = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    return loaded, AutoTokenizer.from_pretrained(**where)


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """A bar of transformers that no setting of its own switches off: on a terminal it helps, in a log it is litter."""
    if sys.stderr.isatty():
        yield
    else:
        with redirect_stderr(io.StringIO()):
            yield


def _tidy(directory: Path) -> None:
    """Drop what transformers leaves behind: the converter's model name, and weights that only the owner reads."""
    path = directory / "config.json"
    config = json.loads(path.read_text("utf-8"))
    for name in ("_model_name_or_path", "_name_or_path"):
        config.pop(name, None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    for file in directory.iterdir():
        file.chmod(0o644)


def load_model(directory: Path, dtype: "torch.dtype") -> Any:
    """The causal language model of a local directory, in evaluation mode, computing in ``dtype``."""
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    return AutoModelForCausalLM.from_pretrained(str(directory), dtype=dtype, local_files_only=True).eval()


def quiet_libraries() -> None:
    """Silence transformers' and peft's bars and notices: they drown our own progress, and none asks for an act."""
    import warnings
    from logging import getLogger as logging_of

    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)(\..*)?")
    quiet_deepspeed()
    logging_of("bitsandbytes").setLevel("ERROR")  # it tells of every cast to fp16, and of kernels it does well without
    warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # GPT-2: peft mends it by itself


def recorded_base(record: Mapping[str, Any], cache_dir: Path, stage: str, key: str) -> Input:
    """The base that an artifact's ``records["base"]`` ({"ref", "path", "digest"}) names, as it is today.

    Raises UserError BASE-005 when it is gone and BASE-006 when its content is another.
    """
    ref, path = str(record["ref"]), Path(record["path"]) if record["path"] else None
    if path is None:
        return Input("base", ref, "model", digest=str(record["digest"]))
    if not path.exists():
        raise UserError(problem("BASE-005", stage=stage, key=key, ref=ref, path=str(path)))
    digests = Digests(cache_dir / "digests.json")
    today = content_digest(path, digests)
    digests.save()
    if today != record["digest"]:
        raise UserError(problem("BASE-006", stage=stage, key=key, ref=ref, path=str(path)))
    return Input("base", ref, "model", path=path, manifest=read_manifest(path), digest=today)


def _from_hub(name: str, stage: str, source: Input, wanted: tuple[str, ...] = MODEL_FILES) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
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
    told: dict[str, Any] = {"ref": source.ref, "reason": _first_line(error)}
    return UserError(problem("BASE-003", stage=stage, key=f"{stage}.{source.role}", **told))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def choose_dtype(device: "torch.device") -> tuple["torch.dtype", str]:
    """The dtype to compute in, and why."""
    import torch

    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, say("why_native_bf16")
        return torch.float16, say("why_no_bf16")
    return torch.float32, say("why_cpu_fp32")


def quiet_deepspeed() -> None:
    """Its errors only. transformers imports it to save a model, and it warns of every machine that has no GPU."""
    import logging

    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
