"""The one engine that applies a family's table to tensors, in both directions."""

import re
from collections.abc import Callable, Sequence

import torch

from easyllm.core.errors import StageFailed
from easyllm.core.families.table import MEGATRON_LAYER, Family, Rule
from easyllm.core.families.tables import FAMILIES
from easyllm.core.families.weights import Weights
from easyllm.core.megatron.architecture import Architecture

Parts = tuple[torch.Tensor, ...]


def split_qkv(fused: torch.Tensor, a: Architecture) -> Parts:
    """Megatron's fused rows, one block [q of the group, k, v] a query group, to q, k and v. Rotary needs no change.

    ``fused`` is [(heads + 2 kv_heads) head_dim, ...].
    """
    per_group = a.heads // a.kv_heads
    grouped = fused.reshape(a.kv_heads, (per_group + 2) * a.head_dim, *fused.shape[1:])
    parts: Parts = grouped.split([per_group * a.head_dim, a.head_dim, a.head_dim], dim=1)
    return tuple(part.reshape(-1, *fused.shape[1:]) for part in parts)


def fuse_qkv(parts: Sequence[torch.Tensor], a: Architecture) -> torch.Tensor:
    """The inverse of split_qkv."""
    grouped = [part.reshape(a.kv_heads, -1, *part.shape[1:]) for part in parts]
    return torch.cat(grouped, dim=1).reshape(-1, *parts[0].shape[1:])


def _parts_of_joined(joined: torch.Tensor, a: Architecture) -> Parts:
    kv = a.kv_heads * a.head_dim
    parts: Parts = joined.split([a.heads * a.head_dim, kv, kv])
    return parts


def _padded(rows: torch.Tensor, a: Architecture) -> torch.Tensor:
    """With zero rows up to the padded vocabulary."""
    if a.padded_vocabulary == a.tokenizer_size == rows.shape[0]:
        return rows
    whole = rows.new_zeros(a.padded_vocabulary, *rows.shape[1:])
    whole[: a.tokenizer_size] = rows
    return whole


HOW: dict[str, tuple[Callable[[torch.Tensor, Architecture], Parts], Callable[[Parts, Architecture], torch.Tensor]]] = {
    "copy": (lambda t, a: (t,), lambda p, a: p[0]),
    "vocabulary": (lambda t, a: (t[: a.tokenizer_size],), lambda p, a: _padded(p[0], a)),
    "qkv": (split_qkv, fuse_qkv),
    "gate_up": (lambda t, a: t.chunk(2), lambda p, a: torch.cat(p)),
    "conv1d": (lambda t, a: (t.t(),), lambda p, a: p[0].t()),  # GPT-2's Conv1D stores its weight as [in, out]
    "qkv_joined": (
        lambda t, a: (torch.cat(split_qkv(t, a)),),
        lambda p, a: fuse_qkv(_parts_of_joined(p[0], a), a),
    ),
    "qkv_conv1d": (
        lambda t, a: (torch.cat(split_qkv(t, a)).t(),),
        lambda p, a: fuse_qkv(_parts_of_joined(p[0].t(), a), a),
    ),
}
"""By a rule's ``how``: Megatron's tensor to Hugging Face's, and back."""


def rules(a: Architecture, family: Family | None = None) -> list[Rule]:
    """Every rule that holds for ``a``, with full names: the embedding, layer after layer, the end."""
    family = family or FAMILIES[a.family]
    before = [rule for rule in family.once if rule.megatron.startswith("embedding.")]
    after = [rule for rule in family.once if rule not in before]
    layers = [_of_layer(rule, n, family) for n in range(a.layers) for rule in family.per_layer]
    return [rule for rule in (*before, *layers, *after) if _holds(rule, a)]


def _of_layer(rule: Rule, n: int, family: Family) -> Rule:
    mine, theirs = MEGATRON_LAYER.format(n=n), family.layer.format(n=n)
    return Rule(mine + rule.megatron, tuple(theirs + name for name in rule.hf), rule.how, rule.where)


def _holds(rule: Rule, a: Architecture) -> bool:
    if rule.where is None:
        return True
    return not a.tie_embeddings if rule.where == "untied" else bool(getattr(a, rule.where))


class AsMegatron:
    """A Hugging Face model's weights as Megatron's at tensor parallel 1, made as they are read.

    ``family`` is the table of the files, where that is not the one that ``a`` is written as. StageFailed where the
    files lack a tensor, hold one of another shape, or one that no rule knows.
    """

    def __init__(self, hf: Weights, a: Architecture, family: Family | None = None) -> None:
        self._hf, self._a = hf, a
        family = family or FAMILIES[a.family]
        self._rules = {rule.megatron: rule for rule in rules(a, family)}
        self._stored = _stored_names(hf, self._rules, family, a.tie_embeddings)

    def names(self) -> list[str]:
        return list(self._rules)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._made(name, meta=True).shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._hf.dtype(self._stored[self._rules[name].hf[0]])

    def read(self, name: str) -> torch.Tensor:
        return self._made(name, meta=False)

    def _made(self, name: str, meta: bool) -> torch.Tensor:
        rule = self._rules[name]
        stored = [self._stored[part] for part in rule.hf]
        if rule.how == "vocabulary" and self._hf.shape(stored[0])[0] != self._a.tokenizer_size:
            raise StageFailed(
                f"{stored[0]} has {self._hf.shape(stored[0])[0]} rows, config.json says {self._a.tokenizer_size}"
            )
        parts = tuple(_meta(self._hf, part) if meta else self._hf.read(part) for part in stored)
        try:
            return HOW[rule.how][1](parts, self._a)
        except RuntimeError as error:
            shapes = ", ".join(f"{part} {list(self._hf.shape(part))}" for part in stored)
            raise StageFailed(f"{shapes}: not the shapes that config.json says") from error


class AsHf:
    """Megatron's weights at tensor parallel 1 as a Hugging Face model's, made as they are read.

    StageFailed where Megatron's lack a tensor or hold one that no rule knows.
    """

    def __init__(self, megatron: Weights, a: Architecture, family: Family | None = None) -> None:
        self._megatron, self._a = megatron, a
        self._made_by = {name: (rule, i) for rule in rules(a, family) for i, name in enumerate(rule.hf)}
        wanted, found = {rule.megatron for rule, _ in self._made_by.values()}, set(megatron.names())
        if wanted - found:
            raise StageFailed(f"the checkpoint has no tensor {', '.join(sorted(wanted - found))}")
        if found - wanted:
            raise StageFailed(f"no rule of {a.family} for {', '.join(sorted(found - wanted))}")
        self._last: tuple[str, Parts] | None = None

    def names(self) -> list[str]:
        return list(self._made_by)

    def shape(self, name: str) -> tuple[int, ...]:
        rule, i = self._made_by[name]
        return tuple(HOW[rule.how][0](_meta(self._megatron, rule.megatron), self._a)[i].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._megatron.dtype(self._made_by[name][0].megatron)

    def read(self, name: str) -> torch.Tensor:
        """Parts of one Megatron tensor should be read one after the other: the last tensor is kept."""
        rule, i = self._made_by[name]
        if self._last is None or self._last[0] != rule.megatron:
            self._last = None  # before the next is read
            self._last = rule.megatron, HOW[rule.how][0](self._megatron.read(rule.megatron), self._a)
        part = self._last[1][i].contiguous()
        if i + 1 == len(rule.hf):
            self._last = None
        return part


def _meta(weights: Weights, name: str) -> torch.Tensor:
    return torch.empty(weights.shape(name), dtype=weights.dtype(name), device="meta")


def _stored_names(hf: Weights, by_name: dict[str, Rule], family: Family, tied: bool) -> dict[str, str]:
    """The name in the files of every tensor that the rules want: files of the bare model leave a prefix out."""
    found = set(hf.names())
    stored: dict[str, str] = {}
    for rule in by_name.values():
        for name in rule.hf:
            bare = name.removeprefix(family.base_prefix)
            if name not in found and bare not in found:
                raise StageFailed(f"the model has no tensor {name}")
            stored[name] = name if name in found else bare
    output = [rule.hf[0] for rule in family.once if rule.where == "untied"] or ["lm_head.weight"]
    allowed = [*family.ignored, *(map(re.escape, output) if tied else [])]
    unknown = [n for n in found - set(stored.values()) if not any(re.fullmatch(p, n) for p in allowed)]
    if unknown:
        raise StageFailed(f"no rule of {family.model_type} for {', '.join(sorted(unknown))}")
    return stored
