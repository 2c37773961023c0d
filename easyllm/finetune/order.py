"""In which order rows are seen: a function of seed and epoch alone, so that a cut run goes on exactly."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from easyllm.core.conversations import Share

POOL_BATCHES = 8
"""Rows are sorted by length inside pools of this many global batches: little padding, and still a shuffle."""


@dataclass(frozen=True)
class Step:
    """One optimizer step: its epoch, counted from 1, and the numbers of its rows."""

    epoch: int
    rows: tuple[int, ...]


def order(
    lengths: Sequence[int], global_samples: int, epochs: int, seed: int, shares: Sequence[Share] | None = None,
    max_steps: int | None = None,
) -> list[Step]:  # fmt: skip
    """Every row as often in an epoch as its share weighs; the last step of an epoch takes the rows that are left.

    A weight of 2 puts a row into two different steps of an epoch; 0.5 takes half of its share's rows and the other
    half in the next epoch. Without ``shares`` every row is seen once an epoch. No more than ``max_steps`` steps.
    """
    taken = list(shares) if shares is not None else [Share()] * len(lengths)
    turns = {share: _turns(taken, share, seed) for share in dict.fromkeys(taken)}
    steps: list[Step] = []
    for epoch in range(1, epochs + 1):
        if max_steps is not None and len(steps) >= max_steps:
            break
        draw = random.Random(f"{seed}-{epoch}")
        rows = sorted(row for share, turn in turns.items() for row in _of_epoch(turn, share.weight, epoch))
        draw.shuffle(rows)
        steps += [Step(epoch, tuple(batch)) for batch in _batches(rows, lengths, global_samples, draw)]
    return steps[:max_steps]


def rows_in_epoch(shares: Iterable[Share], epoch: int) -> int:
    """How many rows an epoch, counted from 1, sees."""
    counted = Counter(shares)
    return sum(len(range(*_window(rows, share.weight, epoch))) for share, rows in counted.items())


def rows_in_all(shares: Iterable[Share], epochs: int) -> int:
    """How many rows all epochs together see; 0 where the weights are too small for a single one."""
    return sum(_window(rows, share.weight, epochs)[1] for share, rows in Counter(shares).items())


def _turns(shares: Sequence[Share], share: Share, seed: int) -> list[int]:
    """The rows of a share in the order in which their turn comes."""
    rows = [row for row, other in enumerate(shares) if other == share]
    random.Random(f"{seed}-{share.entry}-{share.weight}").shuffle(rows)
    return rows


def _window(rows: int, weight: float, epoch: int) -> tuple[int, int]:
    """From where to where an epoch goes in the endless row of turns; exact, so that no fraction is ever lost."""
    exact = Fraction(str(weight)) * rows
    return int(exact * (epoch - 1)), int(exact * epoch)


def _of_epoch(turns: Sequence[int], weight: float, epoch: int) -> list[int]:
    return [turns[at % len(turns)] for at in range(*_window(len(turns), weight, epoch))]


def _batches(rows: Sequence[int], lengths: Sequence[int], global_samples: int, draw: random.Random) -> list[list[int]]:
    batches = []
    pool_rows = POOL_BATCHES * global_samples
    for start in range(0, len(rows), pool_rows):
        pool = sorted(rows[start : start + pool_rows], key=lambda row: lengths[row])
        batches += [pool[at : at + global_samples] for at in range(0, len(pool), global_samples)]
    if len(set(rows)) < len(rows):
        _part_copies(batches)
    draw.shuffle(batches)
    return batches


def _part_copies(batches: list[list[int]]) -> None:
    """Swap rows between steps, near ones first, until none holds a row twice, as far as there are steps enough."""
    for here, batch in enumerate(batches):
        for at, row in enumerate(batch):
            if row not in batch[:at]:
                continue
            near = sorted(range(len(batches)), key=lambda other: abs(other - here))
            _swap(batch, at, [batches[other] for other in near if other != here])


def _swap(batch: list[int], at: int, others: Iterable[list[int]]) -> None:
    for other in others:
        if batch[at] in other:
            continue
        for place, row in enumerate(other):
            if row not in batch:
                other[place], batch[at] = batch[at], row
                return
