"""On what finetuning computes and in which numbers, and why. No torch is imported before it is needed."""

from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.models import choose_dtype
from easyllm.finetune.config import FinetuneConfig

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def device_kind(asked: str) -> str:
    """cuda or cpu."""
    import torch

    return asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def choose(config: FinetuneConfig, kind: str) -> Decision:
    """What the passes compute in. The weights that are trained are kept in fp32 all the same."""
    import torch

    if config.precision == "auto":
        found, why = choose_dtype(torch.device(kind))
        dtype = str(found).removeprefix("torch.")
    else:
        dtype = DTYPES[config.precision]
        slow = kind == "cpu" and config.precision == "bf16" and not _fast_bf16()
        why = say("why_bf16_slow") if slow else say("why_in_recipe")
    return Decision("dtype", dtype, why)


def _fast_bf16() -> bool:
    """Whether this processor multiplies in bf16 itself."""
    import torch

    asks: list[Any] = [
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ]
    return any(ask() for ask in asks if ask)
