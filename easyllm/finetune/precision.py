"""On what finetuning computes and in which numbers, and why. No torch is imported before it is needed."""

from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.errors import refuse
from easyllm.core.messages import say
from easyllm.core.models import choose_dtype
from easyllm.finetune.config import FinetuneConfig

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def device_kind(config: FinetuneConfig, sent: bool = False) -> str:
    """cuda or cpu. UserError where what is asked for is not there.

    ``sent``: training is for other machines, which are asked when they start; this one may have no GPU.
    """
    if sent:
        return "cpu" if config.device == "cpu" else "cuda"
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = config.device if config.device != "auto" else "cuda" if gpus else "cpu"
    place = {"stage": "finetune"}
    if kind == "cuda" and not gpus:
        raise refuse("TRAIN-037", **place, key="finetune.device")
    if kind == "cuda" and config.ranks > gpus:
        raise refuse("TRAIN-032", **place, key="finetune.ranks", ranks=config.ranks, gpus=gpus)
    if kind == "cpu" and config.precision == "fp16":
        raise refuse("TRAIN-033", **place, key="finetune.precision")
    if kind == "cpu" and config.kernels == "liger":
        raise refuse("TRAIN-034", **place, key="finetune.kernels", reason=say("why_no_gpu"))
    return kind


def choose(config: FinetuneConfig, kind: str, sent: bool = False) -> Decision:
    """What the passes compute in. The weights that are trained are kept in fp32 all the same."""
    if sent and kind == "cuda" and config.precision == "auto":
        return Decision("dtype", DTYPES["bf16"], say("why_bf16_cluster", stage="finetune"))
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
