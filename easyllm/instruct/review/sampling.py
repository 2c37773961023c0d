"""How many rows a person must look at so that all of them may be accepted at a stated share of bad ones.

Acceptance sampling by attributes, without replacement, so the number of bad rows in a sample is hypergeometric:
E. G. Schilling and D. V. Neubauer, Acceptance Sampling in Quality Control, 3rd ed. 2017, chapters 5 and 6; the upper
bound inverts its lower tail (C. J. Clopper and E. S. Pearson 1934, doi:10.1093/biomet/26.4.404, for finite lots).
Everything is counted in whole numbers: no approximation, no rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from hashlib import sha256
from math import comb
from typing import TYPE_CHECKING

from easyllm.instruct.row import Row

if TYPE_CHECKING:
    from easyllm.instruct.review.decisions import Standing


@dataclass(frozen=True)
class Sampling:
    """How far a sample is, and what it says of all rows."""

    of: int
    """Rows in the lot, equal ones counted once."""
    error_rate: float
    confidence: float
    needed: int
    """Rows of the sample, as large as the defects found so far make it."""
    first_needed: int
    """Rows of the sample while no defect is found."""
    decided: int
    """Rows of the sample that were decided on."""
    defects: int
    """Of those, rejected or edited: what would be wrong in the rows that nobody sees."""
    bound: float
    """With ``confidence``, no larger a share of all rows is bad than this; 1.0 before anything is decided."""
    sample: tuple[str, ...]
    """Ids of the sample, in the order to look at them."""
    left: tuple[str, ...]
    """Ids of those that wait for a decision, or are in conflict."""

    @property
    def acceptable(self) -> bool:
        """Whether the rest may be accepted."""
        return not self.left


def sample_size(total: int, error_rate: float, confidence: float, defects: int = 0) -> int:
    """The smallest sample that bounds the share of bad rows by ``error_rate`` when it has ``defects`` bad ones.

    ``total`` where no smaller one does.
    """
    return _smallest(total, _exact(error_rate), 1 - _exact(confidence), defects)


def upper_bound(total: int, sample: int, defects: int, confidence: float) -> float:
    """The largest share of bad rows in the lot that a sample with so few ``defects`` leaves likely enough."""
    return _bound(total, sample, defects, 1 - _exact(confidence))


def sample_needed(total: int, error_rate: float, confidence: float, defects: int) -> int:
    """The sample that a plan which grows with every defect needs after ``defects``.

    Whoever may look again after a bad row has more chances to accept a bad lot than ``confidence`` allows. So each
    further look gets half of the risk that is left, and all of them together stay below it (Bonferroni).
    """
    return _smallest(total, _exact(error_rate), _risk(confidence, defects), defects)


def choose(rows: Sequence[Row], count: int) -> list[Row]:
    """``count`` of the rows by chance, equal ones once: those whose digest of (id) is smallest.

    It hangs on the words alone, so nobody can draw until he likes the draw; a larger choice begins with the smaller.
    """
    by_id = {row.id: row for row in rows}
    return [by_id[row_id] for row_id in sorted(by_id, key=_lot_number)[:count]]


def sampling(found: Sequence["Standing"], error_rate: float, confidence: float) -> Sampling:
    """How far the sample is, by where the rows stand."""
    by_id = {one.source.id: one for one in found}
    order = sorted(by_id, key=_lot_number)
    total, defects, needed = len(order), -1, 0
    bad: list[str] = []
    while len(bad) > defects:  # what was found in the sample makes it larger, and the larger one may hold more
        defects = len(bad)
        needed = sample_needed(total, error_rate, confidence, defects)
        bad = [key for key in order[:needed] if _decided(by_id[key]) and not by_id[key].as_it_was]
    left = [key for key in order[:needed] if not _decided(by_id[key])]
    # Only a beginning of the order was drawn by chance: what was decided behind a gap says nothing.
    seen = next((at for at, key in enumerate(order) if not _decided(by_id[key])), total)
    bad_seen = sum(not by_id[key].as_it_was for key in order[:seen])
    return Sampling(
        of=total,
        error_rate=error_rate,
        confidence=confidence,
        needed=needed,
        first_needed=sample_needed(total, error_rate, confidence, 0),
        decided=needed - len(left),
        defects=defects,
        bound=_bound(total, seen, bad_seen, _risk(confidence, bad_seen)),
        sample=tuple(order[:needed]),
        left=tuple(left),
    )


def _decided(one: "Standing") -> bool:
    """Whether people decided on this very row."""
    return one.lot is None and one.state in ("accepted", "rejected")


def _lot_number(row_id: str) -> str:
    return sha256(f"sample {row_id}".encode()).hexdigest()


def _exact(number: float) -> Fraction:
    """The decimal that was written: 0.02 of 100 rows is two, and not a little more."""
    return Fraction(str(number))


def _risk(confidence: float, defects: int) -> Fraction:
    return (1 - _exact(confidence)) / Fraction(2 ** (defects + 1))


@cache
def _smallest(total: int, error_rate: Fraction, risk: Fraction, defects: int) -> int:
    bad = int(error_rate * total) + 1  # the fewest bad rows that are too many
    return _first(min(defects, total), total, lambda sample: not _likely(total, bad, sample, defects, risk))


@cache
def _bound(total: int, sample: int, defects: int, risk: Fraction) -> float:
    if not sample:
        return 1.0
    most = total - (sample - defects)  # the good rows of the sample are no bad ones of the lot
    return (_first(defects, most + 1, lambda bad: not _likely(total, bad, sample, defects, risk)) - 1) / total


def _first(least: int, most: int, holds: Callable[[int], bool]) -> int:
    """The smallest number for which it holds, ``most`` at the latest; near ones, cheap to count, are tried first."""
    step = 1
    while least + step < most and not holds(least + step):
        least, step = least + step, step * 2
    most = min(most, least + step)
    while least < most:
        middle = (least + most) // 2
        if holds(middle):
            most = middle
        else:
            least = middle + 1
    return least


def _likely(total: int, bad: int, sample: int, defects: int, risk: Fraction) -> bool:
    """Whether a sample of a lot with ``bad`` bad rows has at most ``defects`` of them with more than ``risk``."""
    drawn, marked = sorted((bad, sample))  # the law is the same with both exchanged, and fewer are cheaper to count
    some = max(0, drawn - (total - marked))
    ways, term = 0, comb(marked, some) * comb(total - marked, drawn - some)
    while some <= min(defects, drawn):
        ways += term
        term = term * (marked - some) * (drawn - some) // ((some + 1) * (total - marked - drawn + some + 1))
        some += 1
    return ways * risk.denominator > comb(total, drawn) * risk.numerator
