"""Megatron's distributed optimizer over torch's AdamW: three repairs without which it does not resume.

Upstream meets torch's AdamW only where neither Transformer Engine nor Apex is installed. Each function does nothing
on an optimizer that is not distributed; ``patch`` is called once a process, after Megatron's import.
"""

from collections.abc import Iterator
from typing import Any

import torch

METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}
"""For ``sharded_state_dict``. Upstream's default cannot be written ("flattened_range is not supported",
dist_checkpointing/mapping.py:134), and this kind is read by any layout."""


def needed() -> bool:
    """Whether Megatron uses torch's AdamW here."""
    from megatron.core.optimizer import distrib_optimizer

    return not distrib_optimizer.HAVE_APEX_OR_TE


def patch() -> None:
    """Let the loader find every parameter's ``step``, which no file has (optimizer/distrib_optimizer.py:940)."""
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    original = DistributedOptimizer._set_main_param_and_optimizer_states

    def with_step(self: Any, model_param: Any, tensors: dict[str, Any]) -> None:
        if "step" not in tensors:
            group, index = self.model_param_group_index_map[model_param]
            main = self.optimizer.param_groups[group]["params"][index]
            tensors = {**tensors, "step": self.optimizer.state[main].get("step")}
        original(self, model_param, tensors)

    DistributedOptimizer._set_main_param_and_optimizer_states = with_step


def prime(optimizer: Any) -> None:
    """Give a fresh optimizer its empty moments: asking it for what it would load asserts that it has a step."""
    for inner in _inner(optimizer):
        for group in inner.param_groups:
            for weight in group["params"]:
                if weight not in inner.state:
                    inner.state[weight] = {
                        "step": torch.tensor(0.0),
                        "exp_avg": torch.zeros_like(weight),
                        "exp_avg_sq": torch.zeros_like(weight),
                    }


def part_steps(optimizer: Any) -> None:
    """After loading: a step of its own for every parameter. Upstream gives all of them one tensor, which then
    counts as many steps an iteration as there are parameters, and the loss drifts without an error."""
    for inner in _inner(optimizer):
        for state in inner.state.values():
            state["step"] = state["step"].clone()


def _inner(optimizer: Any) -> Iterator[Any]:
    """torch's optimizers inside Megatron's distributed ones."""
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    if not needed():
        return
    for each in getattr(optimizer, "chained_optimizers", [optimizer]):
        if isinstance(each, DistributedOptimizer):
            yield each.optimizer
