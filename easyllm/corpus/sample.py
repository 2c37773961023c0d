"""A quick look at the head of every file: what ``check`` finds wrong, and what ``plan`` estimates from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from easyllm.core.errors import Problem, UserError
from easyllm.core.rows import plain_suffix
from easyllm.corpus.documents import Span, of_span

FILE_ROWS = 2_000
FILE_BYTES = 8_000_000
TOTAL_BYTES = 32_000_000
"""Enough for a good estimate, and still read well within a second."""
MOST_PROBLEMS = 20


@dataclass
class Sample:
    """What the heads of the files hold."""

    total_bytes: int
    """Of all files, as they lie on disk."""
    read_bytes: int = 0
    """Of the files, as they lie on disk, that were looked at."""
    documents: int = 0
    """Documents seen that are not empty."""
    empty: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of the documents seen."""
    whole: bool = True
    """Everything was seen, so the numbers are exact."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def scale(self) -> float:
        """Whole corpus over what was seen."""
        return 1.0 if self.whole or not self.read_bytes else self.total_bytes / self.read_bytes


def look(files: Sequence[Path], text_key: str) -> Sample:
    """Read the head of each file; at most one problem a file. Reading on is the run's work."""
    sample = Sample(sum(path.stat().st_size for path in files))
    limit = min(FILE_BYTES, TOTAL_BYTES // max(1, len(files)))
    for index in range(len(files)):
        if sample.text_bytes >= TOTAL_BYTES or len(sample.problems) >= MOST_PROBLEMS:
            sample.whole = False
            break
        try:
            _look_at(sample, index, files, text_key, limit)
        except UserError as error:
            sample.problems += error.problems
            sample.whole = False
    return sample


def _look_at(sample: Sample, index: int, files: Sequence[Path], text_key: str, limit: int) -> None:
    path = files[index]
    size_on_disk = path.stat().st_size
    if size_on_disk > FILE_BYTES and plain_suffix(path) in (".txt", ".json"):  # not to be had by the head alone
        sample.documents += 1
        sample.text_bytes += size_on_disk
        sample.read_bytes += size_on_disk
        sample.whole = False
        return
    seen = rows = position = 0
    for document in of_span(Span(index), files, text_key):
        size = len(document.text.encode())
        sample.empty += document.empty
        sample.documents += not document.empty
        sample.text_bytes += size
        seen, rows, position = seen + size, rows + 1, document.position
        if rows >= FILE_ROWS or seen >= limit:
            sample.whole = False
            break
    else:
        position = size_on_disk
    sample.read_bytes += position
