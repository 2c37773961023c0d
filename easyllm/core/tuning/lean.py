"""The same training with less work and memory: layers whose way forth and back is written out by hand.

PyTorch keeps and passes over more than it must: PEFT's adapters make three tensors as large as a layer's output, and
a gated layer keeps four where two are enough. Each layer is replaced only where it is of a known shape **and** gives
the same on random input; afterwards everything is as it was. Under autocast, or where anything is out of the
ordinary, a layer goes its own way.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear

CLOSE = 1e-5
"""Largest difference to the layer's own output, relative to its largest value."""


class _Adapted(torch.autograd.Function):
    """x W' + bias + scale (x A') B', with W and bias frozen; the outputs of the adapter never stand by themselves."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:  # fmt: skip
        flat = x.reshape(-1, x.shape[-1])
        inner = flat @ a.T
        out = torch.nn.functional.linear(flat, weight, bias).addmm_(inner, b.T, alpha=scale)
        ctx.save_for_backward(flat, inner, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        flat, inner, weight, a, b = ctx.saved_tensors
        above = upstream.reshape(-1, upstream.shape[-1])
        of_inner = (above @ b).mul_(ctx.scale)
        # Transposed twice: a product with few rows is several times faster than one with few columns.
        of_b = (inner.T @ above).mul_(ctx.scale).T
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (above @ weight).addmm_(of_inner, a).view(ctx.shape)
        return of_x, None, None, of_inner.T @ flat, of_b, None


class _Normed(torch.autograd.Function):
    """RMS norm with frozen weight: keeps its input and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        width = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(width).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        out: torch.Tensor = (x * scale).mul_(weight)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, scale, weight = ctx.saved_tensors
        above = upstream * weight
        dot = torch.linalg.vecdot(above, x).unsqueeze_(-1)
        return above.mul_(scale).addcmul_(x, dot * scale.pow(3), value=-1 / x.shape[-1]), None, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up: keeps the two, not what is between."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        of_gate = torch.ops.aten.silu_backward(upstream * up, gate)
        return of_gate, torch.nn.functional.silu(gate).mul_(upstream)


def _adapted(module: Any) -> Callable[..., Any] | None:
    """One plain adapter without dropout on a frozen ``Linear``."""
    if type(module) is not LoraLinear or len(module.active_adapters) != 1:
        return None
    [name] = module.active_adapters
    base, own = module.base_layer, module.forward
    if type(base) is not torch.nn.Linear or base.weight.requires_grad or module.lora_variant or module.merged:
        return None
    if name not in module.lora_A or type(module.lora_dropout[name]) is not torch.nn.Identity:
        return None
    a, b, scale = module.lora_A[name], module.lora_B[name], module.scaling[name]
    if a.bias is not None or b.bias is not None or (base.bias is not None and base.bias.requires_grad):
        return None

    def forward(x: torch.Tensor, *others: Any, **named: Any) -> Any:
        plain = x.dtype == base.weight.dtype == a.weight.dtype and not torch.is_autocast_enabled(x.device.type)
        if others or named or module.disable_adapters or not plain:
            return own(x, *others, **named)
        return _Adapted.apply(x, base.weight, base.bias, a.weight, b.weight, scale)  # type: ignore[no-untyped-call]

    return forward


def _normed(module: Any) -> Callable[..., Any] | None:
    """A norm with one frozen weight and an epsilon."""
    weight: Any = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    names = [name for name, _ in module.named_parameters()]
    if names != ["weight"] or not isinstance(epsilon, float) or weight.dim() != 1 or weight.requires_grad:
        return None
    own = module.forward

    def forward(x: torch.Tensor) -> Any:
        if x.dtype != torch.float32 or weight.dtype != x.dtype or torch.is_autocast_enabled(x.device.type):
            return own(x)
        return _Normed.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]

    return forward


def _gated(module: Any) -> Callable[..., Any] | None:
    """down(silu(gate(x)) * up(x)): the feed-forward layer of Llama and its kin."""
    if {name for name, child in module.named_children() if any(True for _ in child.parameters())} != {
        "gate_proj", "up_proj", "down_proj",
    }:  # fmt: skip
        return None

    def forward(x: torch.Tensor) -> Any:
        gate, up = module.gate_proj(x), module.up_proj(x)
        return module.down_proj(_Gated.apply(gate, up))  # type: ignore[no-untyped-call]

    return forward


_KNOWN = (
    (_adapted, lambda module: module.in_features),
    (_normed, lambda module: len(module.weight)),
    (_gated, lambda module: module.gate_proj.in_features),
)
"""How a layer is recognised, and how wide its input is."""


@contextmanager
def lean(model: Any) -> Iterator[int]:
    """Inside, the layers of ``model`` that can be are replaced; gives their number."""
    replaced = []
    for module in model.modules():
        for recognise, width in _KNOWN:
            made = None if "forward" in vars(module) or module._forward_hooks else recognise(module)
            if made is not None and _same(module, made, width(module)):
                module.forward = made
                replaced.append(module)
                break
    try:
        yield len(replaced)
    finally:
        for module in replaced:
            del module.forward


def _same(module: Any, made: Callable[..., Any], width: int) -> bool:
    """Whether both give the same; a drawing of its own leaves the random numbers of training alone."""
    weight = next(module.parameters())
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, width, generator=draw).to(weight.device, weight.dtype)
    with torch.no_grad():
        try:
            one, other = module(x), made(x)
        except (TypeError, ValueError, RuntimeError):
            return False  # not a layer of one tensor after all
    return bool((one - other).abs().max() <= CLOSE * one.abs().max().clamp_min(1e-6))
