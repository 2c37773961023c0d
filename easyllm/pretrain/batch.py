"""Batch arithmetic, exact: a batch that does not divide is refused, never rounded."""

from dataclasses import dataclass

from easyllm.core.megatron.layout import Layout
from easyllm.pretrain.config import Batch, PretrainConfig


@dataclass(frozen=True)
class BatchPlan:
    """How one whole optimizer step is cut up."""

    data_parallel: int
    """Copies of the model."""
    micro_batches: int
    """Forward passes of each rank per step."""
    unit: int
    """Every batch is a multiple of this: micro_samples x data_parallel."""


def layout_of(config: PretrainConfig) -> Layout:
    """How one copy of the model is spread."""
    return Layout(**config.parallel.model_dump())


def batch_plan(config: PretrainConfig) -> BatchPlan:
    """ValueError where ranks or batch do not divide; ``checks`` has said so to the user before."""
    data_parallel, left_ranks = divmod(config.ranks, layout_of(config).model_ranks)
    unit = config.batch.micro_samples * data_parallel
    if left_ranks or config.batch.global_samples % unit:
        raise ValueError(f"{config.batch.global_samples} samples do not divide over {config.ranks} ranks")
    return BatchPlan(data_parallel, config.batch.global_samples // unit, unit)


def step_samples(batch: Batch, consumed: int) -> int:
    """Samples of the step that begins after ``consumed`` samples: Megatron's own rule for a batch that grows."""
    ramp = batch.ramp
    if ramp is None or consumed > ramp.over_samples:
        return batch.global_samples
    increments = (batch.global_samples - ramp.from_samples) // ramp.by_samples
    grown = int(consumed / (ramp.over_samples / increments)) if increments else 0
    return min(ramp.from_samples + grown * ramp.by_samples, batch.global_samples)


def batches_of_ramp(batch: Batch) -> list[int]:
    """Every size that the batch takes, growing; the whole one alone where there is no ramp."""
    if batch.ramp is None:
        return [batch.global_samples]
    return list(range(batch.ramp.from_samples, batch.global_samples + 1, batch.ramp.by_samples))


def samples_after(batch: Batch, steps: int) -> int:
    """Samples trained on after so many steps."""
    if batch.ramp is None:
        return steps * batch.global_samples
    consumed = 0
    for done in range(steps):
        if consumed > batch.ramp.over_samples:  # from here on every batch is whole
            return consumed + (steps - done) * batch.global_samples
        consumed += step_samples(batch, consumed)
    return consumed


def nearest_legal(asked: int, unit: int) -> str:
    """The multiples of ``unit`` below and above ``asked``, for a message; one where there is none below."""
    below = asked // unit * unit
    return f"{below}, {below + unit}" if below else str(unit)
