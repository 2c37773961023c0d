"""Where rows that wait for a person lie, and where what they decide is kept: two files of one folder."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.errors import UserError, problem, refuse
from easyllm.core.messages import say
from easyllm.core.rows import json_kind, read_rows
from easyllm.instruct.review.log import TEXTS, Log
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
        """Every row, in order. Raises UserError with the line of what is none (ROWS-..., REVIEW-003), or REVIEW-011."""
        try:
            found = [_row(self.rows_file, line, values) for line, values in read_rows(self.rows_file, "instruct")]
        except OSError as error:
            raise refuse("REVIEW-011", path=str(self.rows_file), reason=error.strerror) from error
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
    for place in (Path(f"{os.path.abspath(directory)}.kept"), directory / KEPT, directory):
        found = sorted(path for path in place.glob("*" + ROWS) if path.is_file() and not path.name.startswith("."))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise refuse("REVIEW-002", path=str(place), count=len(found), names=names, first=str(found[0]))
        if found:
            return _beside(found[0])
    raise refuse("REVIEW-001", path=str(directory))


def _beside(rows_file: Path) -> Folder:
    return Folder(rows_file, rows_file.with_name(rows_file.name.removesuffix(ROWS) + LOG))


def _row(path: Path, line: int, values: dict[str, Any]) -> Row:
    """The row of one line; a decision is on three texts, so they must be texts."""
    for name in TEXTS:
        value = values.get(name, "" if name == "input" else None)
        if not isinstance(value, str) or (name != "input" and not value.strip()):
            found = say("review_empty_text") if isinstance(value, str) else say("review_kind", kind=json_kind(value))
            raise UserError(problem("REVIEW-003", file=path, line=line, name=name, found=found))
    try:
        return row_of(values)
    except (TypeError, ValueError) as error:  # findings that are no list of findings
        raise UserError(problem("REVIEW-003", file=path, line=line, name="findings", found=str(error))) from error
