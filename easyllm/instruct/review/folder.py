"""Where rows that wait for a person lie, and where what they decide is kept: two files of one folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.errors import UserError, problem, refuse
from easyllm.core.rows import json_kind, read_rows
from easyllm.instruct.review.decisions import Gate, Standing, gate, standings
from easyllm.instruct.review.log import TEXTS, Entry, Log
from easyllm.instruct.row import Row, row_of

ROWS = ".not_cleaned.jsonl"
LOG = ".decisions.jsonl"
KEPT = "instruct.kept"
"""Beside the artifact ``instruct`` in a run's folder: what money and people made there."""


@dataclass(frozen=True)
class Folder:
    """``X.not_cleaned.jsonl`` and the log beside it, ``X.decisions.jsonl``, which is there once somebody decided."""

    rows_file: Path
    log_file: Path

    @property
    def log(self) -> Log:
        return Log(self.log_file)

    def rows(self) -> list[Row]:
        """Every row, in order. Raises UserError with the line of what is none (ROWS-..., REVIEW-003)."""
        found = [_row(self.rows_file, line, values) for line, values in read_rows(self.rows_file, "instruct")]
        if not found:
            raise refuse("REVIEW-009", file=self.rows_file)
        return found


def find(directory: Path) -> Folder:
    """What there is to review at ``directory``.

    That is a run's folder, its ``instruct`` or ``instruct.kept``, any folder with one ``*.not_cleaned.jsonl`` in it,
    or such a file itself. Raises UserError REVIEW-001 for none and REVIEW-002 for several.
    """
    if directory.is_file():
        if not directory.name.endswith(ROWS):
            raise refuse("REVIEW-001", path=str(directory))
        return _beside(directory)
    for place in (directory.with_name(directory.name + ".kept"), directory / KEPT, directory):
        found = sorted(path for path in place.glob("*" + ROWS) if path.is_file() and not path.name.startswith("."))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise refuse("REVIEW-002", path=str(place), count=len(found), names=names, first=str(found[0]))
        if found:
            return _beside(found[0])
    raise refuse("REVIEW-001", path=str(directory))


class Followed:
    """A folder's rows and where each stands, while several people decide on them."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self.entries: list[Entry] = []
        self.standings: list[Standing] = []
        self._mark: Any = None
        self.refresh()

    def refresh(self) -> bool:
        """Take in what others wrote since; True where anything changed, be it decisions or the rows themselves."""
        rows_mark, mark = _mark(self.folder.rows_file), self.folder.log.mark()
        if self._mark == (rows_mark, mark):
            return False
        if self._mark is None or self._mark[0] != rows_mark:
            self.rows = self.folder.rows()
        self.entries = self.folder.log.read()
        self.standings = standings(self.rows, self.entries)
        self._mark = (rows_mark, mark)
        return True

    def append(self, entry: Entry) -> Entry:
        """Write a decision, for good, and see where the rows stand now."""
        written = self.folder.log.append(entry)
        self.refresh()
        return written

    def gate(self) -> Gate:
        return gate(self.rows, self.entries)


def follow(folder: Folder) -> Followed:
    """The rows of ``folder`` and where they stand, now and whenever ``refresh`` is called."""
    return Followed(folder)


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise refuse("REVIEW-001", path=str(path)) from error
    return found.st_size, found.st_mtime_ns, found.st_ino


def _beside(rows_file: Path) -> Folder:
    return Folder(rows_file, rows_file.with_name(rows_file.name.removesuffix(ROWS) + LOG))


def _row(path: Path, line: int, values: dict[str, Any]) -> Row:
    """The row of one line; a decision is on three texts, so they must be texts."""
    for name in TEXTS:
        value = values.get(name, "" if name == "input" else None)
        if not isinstance(value, str) or (name != "input" and not value.strip()):
            found = "an empty text" if isinstance(value, str) else json_kind(value)
            raise UserError(problem("REVIEW-003", file=path, line=line, name=name, found=found))
    try:
        return row_of(values)
    except (TypeError, ValueError) as error:  # findings that are no list of findings
        raise UserError(problem("REVIEW-003", file=path, line=line, name="findings", found=str(error))) from error
