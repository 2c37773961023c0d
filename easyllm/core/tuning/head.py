"""The output layer and the cross-entropy in one: the logits of a large vocabulary never stand whole.

The gradient of the hidden states is made together with the loss, a few rows of logits at a time, as fused linear
cross-entropies do (Liger Kernel, arXiv 2410.10989): what is kept for the way back is as large as the hidden states.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

LOGITS_AT_ONCE = 2**24
"""Floats of logits that stand at a time: 64 MiB."""


def separate_head(model: Any) -> torch.nn.Linear | None:
    """The model's output layer where it is a plain linear layer; None where something stands around it."""
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head._forward_hooks or head._forward_pre_hooks:
        return None
    return head


@contextmanager
def without_head(head: torch.nn.Linear | None) -> Iterator[None]:
    """Inside, the model gives the hidden states before ``head`` as its logits. None: nothing changes."""
    if head is None:
        yield
        return
    # In the instance, so that the call still goes through every wrapper around the model (DDP, PEFT, autocast).
    head.forward = lambda input: input  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward


def head_loss(hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy in fp32 of ``head``'s logits for ``hidden`` [rows, width] and ``targets`` [rows]."""
    weight: torch.Tensor = head.weight
    bias: torch.Tensor | None = head.bias
    if not torch.is_grad_enabled():  # a Function is not told so, and would make gradients that nobody wants
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    loss: torch.Tensor = _HeadLoss.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return loss


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        matrix = weight.detach().to(dtype)
        gradients = [
            torch.empty_like(hidden) if wanted[0] else None,
            torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None,
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None,
        ]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        at_once = max(1, LOGITS_AT_ONCE // weight.shape[0])
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(targets), at_once):
                rows = slice(start, start + at_once)
                part = hidden.detach()[rows].to(dtype)
                logits = torch.nn.functional.linear(part, matrix, None if bias is None else bias.detach().to(dtype))
                total += _loss_then_gradient(logits := logits.float(), targets[rows])
                _take(gradients, logits, part, matrix, rows)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        found = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if value is None else (value * upstream).to(dtype) for value, dtype in found), None


def _loss_then_gradient(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy; ``logits`` become their own gradient: the probabilities, less one at the target."""
    logits -= logits.max(dim=1, keepdim=True).values
    chosen = logits.gather(1, targets[:, None])
    sums = logits.exp_().sum(dim=1, keepdim=True)
    logits /= sums
    logits[torch.arange(len(targets), device=logits.device), targets] -= 1
    return (sums.log() - chosen).sum()


def _take(
    gradients: list[torch.Tensor | None], logits: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor, rows: slice
) -> None:
    """Put the gradients of these rows where they belong."""
    of_hidden, of_weight, of_bias = gradients
    step = logits.to(weight.dtype)
    if of_hidden is not None:
        of_hidden[rows] = step @ weight
    if of_weight is not None:
        of_weight += step.T @ hidden
    if of_bias is not None:
        of_bias += logits.sum(dim=0)
