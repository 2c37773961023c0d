"""A second copy of the weights, laid out as a CPU's kernels multiply fastest when several requests share a pass."""

from typing import Any

import torch

from easyllm.core.messages import say

FEWEST_ROWS, MOST_ROWS = 4, 64
"""Rows of a multiplication, a row a token, for which the copy is taken: with fewer ones the weights as they are take
about a tenth less time, with more of them both take the same."""
SPARE = 4
"""The copy is made where so many of it would fit into the memory that is left: it is comfort, no need."""


class ReorderedLinear:
    """The forward of one linear layer. Where oneDNN's own layout is faster it multiplies by that."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        self._layer = layer
        self._reordered = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., inputs] to [..., outputs]."""
        layer = self._layer
        if not FEWEST_ROWS <= inputs.numel() // layer.in_features <= MOST_ROWS or inputs.dtype != layer.weight.dtype:
            return torch.nn.functional.linear(inputs, layer.weight, layer.bias)
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._reordered, layer.bias, "none", [], "")
        return found


def reorder(model: Any, spare: int) -> tuple[bool, str]:
    """(whether ``model`` has a reordered copy now, why), made where ``spare`` bytes of memory have room for it.

    Measured on one thread of a Xeon with SmolLM2-135M in fp32: all multiplications of a pass of 8 requests in
    63 instead of 90 ms, of 4 in 58 instead of 68. torch's own compiler multiplies by these two operators of its
    mkldnn library (torch/_inductor/mkldnn_lowerings.py); the engine's proof holds what they give to the plain ones.
    """
    linear = [module for module in model.modules() if type(module) is torch.nn.Linear]
    layers: list[Any] = [layer for layer in linear if layer.weight.dtype == model.dtype]
    size = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    if not reorders(model.dtype):
        return False, say("why_not_reordered_cpu")
    if size * SPARE > spare:
        return False, say("why_not_reordered_memory", size=round(size / 1e6), spare=round(spare / 1e6), times=SPARE)
    for layer in layers:
        layer.forward = ReorderedLinear(layer)
    return True, say("why_reordered", size=round(size / 1e6))


def reorders(dtype: torch.dtype) -> bool:
    """Whether this build of torch and this processor multiply by reordered weights of ``dtype``."""
    built = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    half = dtype == torch.bfloat16 and built and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(built and (dtype == torch.float32 or half))
