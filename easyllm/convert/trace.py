"""Where two models part: what goes into and out of every module that a rule maps, one position, both sides."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from easyllm.core.families.mapping import HOW, rules
from easyllm.core.families.table import Rule
from easyllm.core.megatron.architecture import Architecture

Trace = dict[str, torch.Tensor]
"""``module in`` and ``module out`` in the order of execution: [positions, features] in fp32."""


@dataclass(frozen=True)
class Parting:
    """The first place where two traces are further apart than rounding brings them."""

    megatron: str
    hf: str
    """A tensor's name on each side; of several that one module has, the one that explains the difference."""
    before: bool
    """Whether already what goes into it differs, while every module before it agrees."""
    difference: float
    """Largest difference, as a share of the largest value."""


@contextmanager
def traced(model: Any, names: Mapping[str, str], positions: slice, before_hooks: bool = False) -> Iterator[Trace]:
    """Fills as the model runs on one prompt. ``names`` are the model's modules and what the trace calls them.

    ``before_hooks``: what a module gives is kept as it was before the model's own hooks changed it.
    """
    found: Trace = {}

    def hook(name: str) -> Any:
        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            given = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
            if given.is_floating_point():
                found[f"{name} in"] = _features(given, positions)
            # Megatron's linear layers leave some biases to their caller, and then give them beside their output.
            result = out[0] + out[1] if isinstance(out, tuple) and out[1] is not None else out
            found[f"{name} out"] = _features(result[0] if isinstance(result, tuple) else result, positions)

        return keep

    handles = [
        model.get_submodule(name).register_forward_hook(hook(called), with_kwargs=True, prepend=before_hooks)
        for name, called in names.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _features(value: torch.Tensor, positions: slice) -> torch.Tensor:
    """[positions, features]: of one prompt, Megatron's [tokens, 1, ...] and [1, tokens, ...] are the same."""
    tokens = value.shape[0] * value.shape[1] if value.dim() > 2 else value.shape[0]
    return value.reshape(tokens, -1)[positions].float().clone()


def save_trace(trace: Trace, path: Path) -> None:
    """The names carry the order, which a file of tensors does not keep."""
    save_file({f"{i:06} {name}": tensor.contiguous() for i, (name, tensor) in enumerate(trace.items())}, path)


def load_trace(path: Path) -> Trace:
    with safe_open(path, "pt") as file:
        return {key.partition(" ")[2]: file.get_tensor(key) for key in sorted(file.keys())}


def module_of(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def first_parting(megatron: Trace, hf: Trace, a: Architecture, tolerance: float) -> Parting | None:
    """In Megatron's order of execution. A rule turns a Megatron module's features into those of the other side."""
    by_module: dict[str, list[Rule]] = {}
    for rule in rules(a):
        by_module.setdefault(module_of(rule.megatron), []).append(rule)
    for event, mine in megatron.items():
        module, _, which = event.rpartition(" ")
        known = by_module[module]
        parts = _as_hf(mine, known[0], a) if which == "out" else (mine,) * len(known[0].hf)
        for i, part in enumerate(parts):
            theirs = hf[f"{module_of(known[0].hf[i])} {which}"]
            difference = float((part - theirs).abs().max() / torch.maximum(part.abs().max(), theirs.abs().max()))
            if not difference <= tolerance:  # NaN parts too
                rule = _explains(known, part - theirs) if which == "out" else known[0]
                return Parting(rule.megatron, rule.hf[i], which == "in", difference)
    return None


def _as_hf(out: torch.Tensor, rule: Rule, a: Architecture) -> tuple[torch.Tensor, ...]:
    """What comes out is ordered as the weight's rows are; of the embedding, as its columns: on both sides the same."""
    if rule.megatron.startswith("embedding."):
        return (out,)
    parts = HOW[rule.how][0](out.t(), a)  # one row a feature, as the weight has, and one column a position
    return tuple(part if "conv1d" in rule.how else part.t() for part in parts)


def _explains(known: list[Rule], difference: torch.Tensor) -> Rule:
    """A wrong bias moves every position by the same; a wrong weight does not."""
    biases = [rule for rule in known if rule.megatron.endswith(".bias")]
    spread = (difference - difference[0]).abs().max()
    if biases and len(difference) > 1 and spread < 0.01 * difference.abs().max():
        return biases[0]
    return known[0]
