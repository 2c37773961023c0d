"""Documents, one at a time, out of files of rows and of plain text, every fault with its file and line."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.errors import UserError, problem
from easyllm.core.rows import Rows, json_kind, plain_suffix, read_text

STAGE = "corpus"
MOST_KEYS = 20
"""Keys of a row that an error names."""


@dataclass(frozen=True)
class Document:
    """One text and how far its file has been read."""

    file: int
    """Index into the files it came from."""
    position: int
    """Bytes of that file, as it lies on disk, read so far."""
    text: str

    @property
    def empty(self) -> bool:
        """Nothing but white space: such a document would teach the end-of-document token only."""
        return not self.text or self.text.isspace()


def read_documents(files: Sequence[Path], text_key: str) -> Iterator[Document]:
    """Every document of every file, empty ones too, in order.

    Raises UserError ROWS-001 to ROWS-006, CORPUS-001 where a row lacks ``text_key``, CORPUS-002 where that is no
    text.
    """
    for index, path in enumerate(files):
        yield from of_file(index, path, text_key)


def of_file(index: int, path: Path, text_key: str) -> Iterator[Document]:
    """The documents of one file: a .txt is one document, everything else holds rows."""
    if plain_suffix(path) == ".txt":
        yield Document(index, path.stat().st_size, read_text(path, STAGE))
        return
    rows = Rows(path, STAGE)
    for line, row in rows:
        yield Document(index, rows.position, _text(row, text_key, path, line))


def _text(row: dict[str, Any], key: str, path: Path, line: int) -> str:
    if key not in row:
        near = difflib.get_close_matches(key, row, n=1, cutoff=0.0)
        there = ", ".join([*list(row)[:MOST_KEYS], *(["..."] if len(row) > MOST_KEYS else [])])
        raise _fault("CORPUS-001", path, line, text_key=key, there=there or "-", nearest=near[0] if near else "-")
    text = row[key]
    if not isinstance(text, str):
        raise _fault("CORPUS-002", path, line, text_key=key, found=json_kind(text))
    return text


def _fault(code: str, path: Path, line: int, **params: Any) -> UserError:
    return UserError(problem(code, stage=STAGE, key="corpus.text_key", file=path, line=line, **params))
