"""Rows to train on and rows held out of it: by the instruction, so that none stands on both sides."""

import hashlib
import heapq
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from easyllm.instruct.row import Row

PLACES = 1 << 64
"""How many places there are; an instruction's is drawn by hash."""


def same_key(instruction: str) -> str:
    """Equal for instructions that differ in width, case and spaces alone."""
    return "".join(unicodedata.normalize("NFKC", instruction).casefold().split())


def place_of(instruction: str, seed: int) -> int:
    """Where ``seed`` puts the instruction, wherever it stands and whatever stands beside it."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{same_key(instruction)}".encode()).digest()[:8])


@dataclass(frozen=True)
class Split:
    """Instructions whose place is below ``below`` are held out."""

    seed: int
    below: int

    def holds_out(self, instruction: str) -> bool:
        return self.below > 0 and place_of(instruction, self.seed) < self.below


def by_share(share: float, seed: int) -> Split:
    """Hold out about ``share`` of the instructions. Rows that are added later move none of the others."""
    return Split(seed, int(share * PLACES))


class Smallest:
    """Finds the split that holds out ``rows`` rows or a few more: instructions are held out whole, smallest place
    first. Keeps no more than those rows' places in memory, however many are added."""

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._counts: Counter[int] = Counter()
        self._largest: list[int] = []
        self._kept, self._below = 0, PLACES
        self.all = 0

    def add(self, instruction: str) -> None:
        self.all += 1
        place = place_of(instruction, self._seed)
        if place >= self._below:
            return
        if place not in self._counts:
            heapq.heappush(self._largest, -place)
        self._counts[place] += 1
        self._kept += 1
        while self._kept - self._counts[-self._largest[0]] >= self._rows:
            self._below = -heapq.heappop(self._largest)
            self._kept -= self._counts.pop(self._below)

    def split(self) -> Split:
        return Split(self._seed, self._below)


def hold_out(rows: Sequence[Row], count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """(rows to train on, rows held out): ``count`` of them or a few more; nothing to train on where too many are."""
    if not count:
        return list(rows), []
    smallest = Smallest(count, seed)
    for row in rows:
        smallest.add(row.instruction)
    found = smallest.split()
    train = [row for row in rows if not found.holds_out(row.instruction)]
    return train, [row for row in rows if found.holds_out(row.instruction)]
