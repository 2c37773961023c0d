"""The one engine that applies a family's table to Megatron's tensors."""

from collections.abc import Callable

import torch

from easyllm.convert.families import FAMILIES, MEGATRON_LAYER, Rule
from easyllm.core.errors import StageFailed
from easyllm.core.megatron.architecture import Architecture

Tensors = dict[str, torch.Tensor]
How = Callable[[torch.Tensor, Architecture], tuple[torch.Tensor, ...]]


def split_qkv(merged: torch.Tensor, a: Architecture) -> tuple[torch.Tensor, ...]:
    """Megatron's fused rows, one block [q of the group, k, v] a query group, to q, k and v. Rotary needs no change.

    ``merged`` is [(heads + 2 kv_heads) head_dim, ...].
    """
    per_group = a.heads // a.kv_heads
    grouped = merged.reshape(a.kv_heads, (per_group + 2) * a.head_dim, *merged.shape[1:])
    parts = grouped.split([per_group * a.head_dim, a.head_dim, a.head_dim], dim=1)
    return tuple(part.reshape(-1, *merged.shape[1:]) for part in parts)


HOW: dict[str, How] = {
    "copy": lambda t, a: (t,),
    "transpose": lambda t, a: (t.t(),),
    "unpad": lambda t, a: (t[: a.tokenizer_size],),
    "split_qkv": split_qkv,
    "split_gate_up": lambda t, a: t.chunk(2, dim=0),
    "join_qkv": lambda t, a: (torch.cat(split_qkv(t, a)),),
    "join_qkv_transposed": lambda t, a: (torch.cat(split_qkv(t, a)).t(),),
}


def to_hf(megatron: Tensors, architecture: Architecture) -> Tensors:
    """The Hugging Face tensors of one model. StageFailed where a tensor is missing or none knows what to do with it."""
    left = dict(megatron)
    made: Tensors = {}
    for name, targets, rule in _rules(architecture):
        if name not in left:
            raise StageFailed(f"convert: the checkpoint has no tensor {name}")
        parts = HOW[rule.how](left.pop(name), architecture)
        made.update((target, part.contiguous().clone()) for target, part in zip(targets, parts, strict=True))
    if left:
        raise StageFailed(f"convert: no rule of {architecture.family} for {', '.join(sorted(left))}")
    return made


def _rules(architecture: Architecture) -> list[tuple[str, tuple[str, ...], Rule]]:
    """Every rule with its full names, layers written out."""
    family = FAMILIES[architecture.family]
    once = [r for r in family.once if not (r.only_untied and architecture.tie_embeddings)]
    found = [(rule.megatron, rule.hf, rule) for rule in once]
    for n in range(architecture.layers):
        mine, theirs = MEGATRON_LAYER.format(n=n), family.layer.format(n=n)
        found += [(mine + r.megatron, tuple(theirs + name for name in r.hf), r) for r in family.per_layer]
    return found
