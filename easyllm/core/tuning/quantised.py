"""The base of an adapter, stored as it was when the adapter was trained on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyllm.core.errors import refuse
from easyllm.core.models import load_model, quiet_libraries
from easyllm.core.tuning.config import Method, Quantisation

if TYPE_CHECKING:
    import torch


def quantisation_record(method: Method, asked: Quantisation, dtype: "torch.dtype") -> dict[str, Any] | None:
    """What the manifest of an adapter keeps as ``records["quantisation"]``; None where the base is not quantised."""
    compute = str(dtype).removeprefix("torch.")
    if method == "int8":
        return {"bits": 8, "threshold": asked.int8_threshold, "compute_dtype": compute}
    if method == "qlora":
        return {"bits": 4, "type": asked.four_bit_type, "double": asked.double, "compute_dtype": compute}
    return None


def load_base(directory: Path, dtype: "torch.dtype", record: Mapping[str, Any] | None, stage: str = "finetune") -> Any:
    """The causal language model of ``directory`` in ``dtype``, quantised by bitsandbytes as ``record`` says.

    ``record`` is an adapter manifest's ``records["quantisation"]``; with None it is ``core.models.load_model``.
    Embeddings and output head stay as they are, tied or not. Raises UserError TRAIN-010 where bitsandbytes cannot run.
    """
    if record is None:
        return load_model(directory, dtype)
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quiet_libraries()
    require_bitsandbytes(stage)
    compute = getattr(torch, record["compute_dtype"])
    if record["bits"] == 8:
        how = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=record["threshold"])
    else:
        how = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=record["type"], bnb_4bit_use_double_quant=record["double"],
            bnb_4bit_compute_dtype=compute,
        )  # fmt: skip
    where: dict[str, Any] = {"dtype": compute, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(str(directory), quantization_config=how, **where).eval()
    _keep_blocks(model)
    return model


def _keep_blocks(model: Any) -> None:
    """Leave 4-bit weights as they were quantised.

    On CPUs with AVX-512 BF16 bitsandbytes' Linear4bit.forward lays them out anew at the first answer without a
    gradient, rounds their scales to bf16 for good, and refuses layers whose outputs are no multiple of 32: after a
    look at the held-out rows training would go on with another base, and the merge would take a third one.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def require_bitsandbytes(stage: str) -> None:
    """Quantise one block and give it back; UserError TRAIN-010 where this machine's bitsandbytes cannot."""
    import torch

    key = f"{stage}.method"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        dequantize_4bit(*quantize_4bit(torch.ones(64, device=device), quant_type="nf4"))
    except (ImportError, OSError, RuntimeError, AttributeError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise refuse("TRAIN-010", stage=stage, key=key, reason=reason) from error
