"""Shards put together in the order of their pieces: one .bin and .idx for each source and part of the split.

A shard's tokens are appended, synced, and then its own file is taken away; so the disk never holds the tokens twice,
and a run that goes on after a kill knows by the files that are left where it was.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy

from easyllm.core.artifact import sync_directory
from easyllm.corpus.indexed import read_lengths, sync_and_close, write_index
from easyllm.corpus.pieces import Piece
from easyllm.corpus.shards import HASH_BYTES, Shard, hashes_file, lengths_file, tokens_file

_COPY_BYTES = 1 << 20
HASHES_AT_ONCE = 1 << 22
"""Sorted at a time to find duplicates: 32 MiB, and twice that while they are sorted."""


class Gathered:
    """The tokens of the corpus as they grow; ``prefixes[source][part]`` names the files."""

    def __init__(self, directory: Path, prefixes: list[list[Path]], dtype: str) -> None:
        self._directory, self._prefixes, self._dtype = directory, prefixes, dtype
        self._item_bytes = numpy.dtype(dtype).itemsize
        parts = len(prefixes[0])
        self.totals = [Shard([0] * parts, [0] * parts) for _ in prefixes]
        """By source."""
        self._numbers: list[list[int]] = [[] for _ in prefixes]
        self._open: dict[Path, BinaryIO] = {}

    def add(self, piece: Piece, shard: Shard) -> None:
        """Append the next shard, unless a run before this one has."""
        for part, prefix in enumerate(self._prefixes[piece.source]):
            before = self.totals[piece.source].tokens[part] * self._item_bytes
            self._append(prefix, before, tokens_file(self._directory, piece.number, part))
        self.totals[piece.source].add(shard)
        self._numbers[piece.source].append(piece.number)

    def _append(self, prefix: Path, before: int, tokens: Path) -> None:
        if not tokens.is_file():
            return
        target = self._opened(prefix)
        target.seek(before)
        target.truncate()  # a kill may have left half a shard behind
        with tokens.open("rb") as source:
            shutil.copyfileobj(source, target, _COPY_BYTES)
        target.flush()
        os.fsync(target.fileno())
        tokens.unlink()

    def _opened(self, prefix: Path) -> BinaryIO:
        if prefix not in self._open:
            path = prefix.with_name(prefix.name + ".bin")
            path.touch()
            sync_directory(path.parent)
            self._open[prefix] = path.open("r+b")
        return self._open[prefix]

    def finish(self) -> None:
        """Write the index of every .bin."""
        for source, prefixes in enumerate(self._prefixes):
            for part, prefix in enumerate(prefixes):
                sync_and_close(self._opened(prefix))
                documents = self.totals[source].documents[part]
                write_index(
                    prefix.with_name(prefix.name + ".idx"),
                    self._dtype,
                    documents,
                    lambda source=source, part=part: self.lengths(source, part),  # type: ignore[misc]
                )

    def lengths(self, source: int, part: int) -> Iterator[Any]:
        """Tokens of each document, block by block."""
        return read_lengths(lengths_file(self._directory, n, part) for n in self._numbers[source])

    def length_counts(self) -> dict[int, int]:
        """How many documents have how many tokens, over all sources and parts; in rising order."""
        counts: dict[int, int] = {}
        for source, prefixes in enumerate(self._prefixes):
            for part in range(len(prefixes)):
                for block in self.lengths(source, part):
                    for length, count in zip(*numpy.unique(block, return_counts=True), strict=True):
                        counts[int(length)] = counts.get(int(length), 0) + int(count)
        return dict(sorted(counts.items()))

    def duplicates(self) -> int:
        """Documents whose text stands in the corpus already, letter for letter."""
        paths = [hashes_file(self._directory, n) for numbers in self._numbers for n in numbers]
        return count_duplicates(paths)


def count_duplicates(paths: list[Path]) -> int:
    """Repeated hashes in the files. Read once for every ``HASHES_AT_ONCE`` of them, so that memory stays flat."""
    total = sum(path.stat().st_size for path in paths) // HASH_BYTES
    rounds = -(-total // HASHES_AT_ONCE)
    found = 0
    for turn in range(rounds):
        held = numpy.concatenate([_of_turn(block, turn, rounds) for block in _hashes(paths)])
        found += len(held) - len(numpy.unique(held))
    return found


def _of_turn(block: Any, turn: int, rounds: int) -> Any:
    return block[block % numpy.uint64(rounds) == turn]


def _hashes(paths: Iterable[Path]) -> Iterator[Any]:
    for path in paths:
        yield numpy.fromfile(path, dtype="<u8")
