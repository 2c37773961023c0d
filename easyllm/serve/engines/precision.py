"""What the embedded engine computes in, whether prompts share what was read of them, and why. Imports torch late."""

from typing import TYPE_CHECKING, Any

from easyllm.core.artifact import Decision
from easyllm.core.errors import Problem, problem, refuse
from easyllm.core.messages import say, term
from easyllm.serve.config import ServeConfig

if TYPE_CHECKING:
    import torch

HALF_BYTES, FULL_BYTES = 2, 4


def precision_problems(config: ServeConfig) -> list[Problem]:
    """SERVE-081: what only the embedded engine can be told."""
    if config.engine == "embedded":
        return []
    told = [name for name, neutral in (("dtype", "auto"), ("prefix_cache", None)) if getattr(config, name) != neutral]
    return [problem("SERVE-081", stage="serve", key=f"serve.{name}", name=name, engine=config.engine) for name in told]


def bytes_per_value(config: ServeConfig) -> int:
    """Of weights and cache, as far as the recipe tells; a GPU's half precision shows when it is there."""
    return HALF_BYTES if config.dtype in ("bfloat16", "float16") else FULL_BYTES


def decide_dtype(asked: str, device: "torch.device") -> tuple["torch.dtype", str]:
    """(what to compute in, why). Raises UserError SERVE-080 where ``device`` cannot compute in what was asked for."""
    import torch

    from easyllm.core.models import choose_dtype

    if asked == "auto":
        return choose_dtype(device)
    dtype: torch.dtype = getattr(torch, asked)
    try:
        _try_out(dtype, device)
    except RuntimeError as error:  # "... not implemented for 'Half'"
        reason = str(error).splitlines()[0]
        raise refuse(
            "SERVE-080", stage="serve", key="serve.dtype", dtype=asked, device=device.type, reason=reason
        ) from error
    slow = device.type == "cpu" and dtype != torch.float32 and not _has_half_units()
    return dtype, say("why_slow_half") if slow else say("why_in_recipe")


def decide_prefix_cache(asked: bool | None, dtype: Any) -> tuple[bool, str]:
    """(whether prompts share what was read of their common beginning, why)."""
    import torch

    if asked is not None:
        return asked, say("why_in_recipe")
    if dtype == torch.float32:
        return True, say("why_prefix_exact")
    return False, say("why_prefix_half")


def told(decision: Decision) -> str:
    """A decision as the server prints it when it starts."""
    return say("serve_decided", name=term(decision.what), value=decision.value, why=decision.why)


def _try_out(dtype: "torch.dtype", device: "torch.device") -> None:
    """The operations of a decoder, on a handful of numbers."""
    import torch
    from torch.nn import functional

    values = torch.ones(1, 2, 4, 8, dtype=dtype, device=device)
    functional.scaled_dot_product_attention(values, values, values, is_causal=True)
    functional.layer_norm(functional.silu(functional.linear(values, values[0, 0])), (4,)).softmax(-1)


def _has_half_units() -> bool:
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
