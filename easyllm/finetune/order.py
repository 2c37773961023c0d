"""In which order rows are seen: a function of seed and epoch alone, so that a cut run goes on exactly."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

POOL_BATCHES = 8
"""Rows are sorted by length inside pools of this many global batches: little padding, and still a shuffle."""


@dataclass(frozen=True)
class Step:
    """One optimizer step: its epoch, counted from 1, and the numbers of its rows."""

    epoch: int
    rows: tuple[int, ...]


def order(lengths: Sequence[int], global_samples: int, epochs: int, seed: int) -> list[Step]:
    """Every row once an epoch; the last step of an epoch takes the rows that are left."""
    steps: list[Step] = []
    for epoch in range(1, epochs + 1):
        steps += [
            Step(epoch, tuple(rows)) for rows in _epoch(lengths, global_samples, random.Random(f"{seed}-{epoch}"))
        ]
    return steps


def _epoch(lengths: Sequence[int], global_samples: int, draw: random.Random) -> list[list[int]]:
    rows = list(range(len(lengths)))
    draw.shuffle(rows)
    batches = []
    pool_rows = POOL_BATCHES * global_samples
    for start in range(0, len(rows), pool_rows):
        pool = sorted(rows[start : start + pool_rows], key=lambda row: lengths[row])
        batches += [pool[at : at + global_samples] for at in range(0, len(pool), global_samples)]
    draw.shuffle(batches)
    return batches
