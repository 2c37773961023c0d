"""Rows that hold a run of words of an evaluation set: a model trained on them would be asked what it has read."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from easyllm.core.errors import refuse
from easyllm.core.progress import progress
from easyllm.core.rows import Rows, plain_suffix, read_text
from easyllm.instruct.clean.tokens import tokens_of
from easyllm.instruct.row import Finding, Row

_BATCH = 1 << 18
"""Runs that are sorted in at once: what reading an evaluation set takes beside eight bytes a run of it."""


class Contamination:
    """Every run of ``length`` tokens of the evaluation ``files``, kept as eight bytes each.

    Every string of a row counts, whatever shape the row has; one that is shorter than a run cannot be told from
    chance and counts for nothing. Raises UserError: ROWS-00x not readable, INSTRUCT-042 nothing as long as a run.
    """

    def __init__(self, files: Sequence[Path], length: int, stage: str) -> None:
        self._length = length
        self._sets: list[tuple[str, Any]] = []
        for file in files:
            runs = self._runs_of(file, stage)
            if not len(runs):
                raise refuse("INSTRUCT-042", stage=stage, key=f"{stage}.clean.evaluation", file=file, tokens=length)
            self._sets.append((file.name, runs))

    def find(self, row: Row) -> list[Finding]:
        """contaminated, with the set and the words that both have; the row's three texts are read as one."""
        if not self._sets:
            return []
        import numpy

        tokens = tokens_of(f"{row.instruction}\n{row.input}\n{row.output}")
        runs = _runs(tokens, self._length)
        for name, known in self._sets:
            places = numpy.searchsorted(known, runs)
            shared = numpy.flatnonzero(known[numpy.minimum(places, len(known) - 1)] == runs)
            if len(shared):
                first = int(shared[0])
                words = " ".join(tokens[first : first + self._length])
                return [Finding("contaminated", True, {"set": name, "words": words, "runs": len(shared)})]
        return []

    def _runs_of(self, file: Path, stage: str) -> Any:
        """All runs of one file, sorted, each once."""
        import numpy

        found, batch, waiting = numpy.empty(0, dtype=numpy.uint64), [], 0
        for text in _texts(file, stage):
            batch.append(_runs(tokens_of(text), self._length))
            waiting += len(batch[-1])
            if waiting >= _BATCH:
                found, batch, waiting = numpy.union1d(found, numpy.concatenate(batch)), [], 0
        return numpy.union1d(found, numpy.concatenate(batch)) if batch else found


def _texts(file: Path, stage: str) -> Iterator[str]:
    """Every string of every row, or the whole of a plain text."""
    if plain_suffix(file) == ".txt":
        yield read_text(file, stage)
        return
    rows, told = Rows(file, stage), 0
    with progress("evaluation set", file.stat().st_size // 1000, "kB") as bar:
        for _, row in rows:
            yield from _strings(row)
            bar.advance(rows.position // 1000 - told)
            told = rows.position // 1000


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _runs(tokens: Sequence[str], length: int) -> Any:
    """A number of 64 bits for each run: two that differ have the same one by chance in 1 of 2^64 cases."""
    import numpy

    if len(tokens) < length:
        return numpy.empty(0, dtype=numpy.uint64)
    hashed = numpy.fromiter(map(_hashed, tokens), dtype=numpy.uint64, count=len(tokens))
    last = len(tokens) - length + 1
    runs = numpy.zeros(last, dtype=numpy.uint64)
    for place, factor in enumerate(_factors(length)):
        runs += hashed[place : place + last] * factor  # modulo 2^64, as numpy's whole numbers are
    return runs


@lru_cache(maxsize=1 << 16)
def _hashed(token: str) -> int:
    return int.from_bytes(hashlib.blake2b(token.encode(), digest_size=8).digest(), "little")


@lru_cache
def _factors(length: int) -> Any:
    """An odd number for each place, so that the same words in another order are another run."""
    import numpy

    return numpy.array([_hashed(f"place {place}") | 1 for place in range(length)], dtype=numpy.uint64)
