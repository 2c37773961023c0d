"""Batch arithmetic, exact: a batch that does not divide is refused, never rounded."""

from dataclasses import dataclass

from easyllm.pretrain.config import PretrainConfig


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step is cut up."""

    data_parallel: int
    """Copies of the model."""
    micro_batches: int
    """Forward passes of each rank per step."""
    unit: int
    """The global batch is a multiple of this: micro_samples x data_parallel."""


def batch_plan(config: PretrainConfig) -> BatchPlan:
    """ValueError where ranks or batch do not divide; ``checks`` has said so to the user before."""
    data_parallel, left_ranks = divmod(config.ranks, config.parallel.tensor)
    unit = config.batch.micro_samples * data_parallel
    if left_ranks or config.batch.global_samples % unit:
        raise ValueError(f"{config.batch.global_samples} samples do not divide over {config.ranks} ranks")
    return BatchPlan(data_parallel, config.batch.global_samples // unit, unit)


def nearest_legal(asked: int, unit: int) -> str:
    """The multiples of ``unit`` below and above ``asked``, for a message; one where there is none below."""
    below = asked // unit * unit
    return f"{below}, {below + unit}" if below else str(unit)
