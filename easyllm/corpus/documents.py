"""Documents, one at a time, out of files of rows, of columns and of plain text, every fault with its file and line."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.errors import UserError, problem
from easyllm.core.inputs import COLUMN_SUFFIXES
from easyllm.core.rows import Cut, Rows, json_kind, plain_suffix, read_text

STAGE = "corpus"
MOST_KEYS = 20
"""Keys of a row that an error names."""


@dataclass(frozen=True)
class Span:
    """A part of one file; all of it where nothing else is said."""

    file: int
    """Index into the files of the corpus."""
    cut: Cut | None = None
    """Of a JSONL file."""
    groups: tuple[int, int] | None = None
    """Of a Parquet or Arrow file: the first row group or record batch, and the one after the last."""


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
    """Every document of every file, empty ones too, in order. Raises UserError as ``of_span`` does."""
    for index in range(len(files)):
        yield from of_span(Span(index), files, text_key)


def of_span(span: Span, files: Sequence[Path], text_key: str) -> Iterator[Document]:
    """The documents of a part of a file: a .txt is one document, everything else holds rows.

    Raises UserError ROWS-001 to ROWS-007, CORPUS-001 where a row or a file lacks ``text_key``, CORPUS-002 where that
    is no text.
    """
    path = files[span.file]
    if plain_suffix(path) == ".txt":
        yield Document(span.file, path.stat().st_size, read_text(path, STAGE))
    elif path.suffix in COLUMN_SUFFIXES:
        from easyllm.corpus.columns import texts_of

        for position, text in texts_of(path, text_key, span.groups):
            yield Document(span.file, position, text)
    else:
        rows = Rows(path, STAGE, span.cut)
        for line, row in rows:
            yield Document(span.file, rows.position, _text(row, text_key, rows, path, line))


def _text(row: dict[str, Any], key: str, rows: Rows, path: Path, line: int) -> str:
    if key not in row:
        raise missing(key, row, path, rows.line_of(line))
    text = row[key]
    if not isinstance(text, str):
        raise no_text(key, json_kind(text), path, rows.line_of(line))
    return text


def missing(key: str, there: Iterable[str], path: Path, line: int | None) -> UserError:
    """CORPUS-001: what should hold the text is not among ``there``."""
    names = list(there)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
    listed = ", ".join([*names[:MOST_KEYS], *(["..."] if len(names) > MOST_KEYS else [])])
    return _fault("CORPUS-001", path, line, text_key=key, there=listed or "-", nearest=near[0] if near else "-")


def no_text(key: str, found: str, path: Path, line: int | None) -> UserError:
    """CORPUS-002: what should be text is something else."""
    return _fault("CORPUS-002", path, line, text_key=key, found=found)


def _fault(code: str, path: Path, line: int | None, **params: Any) -> UserError:
    return UserError(problem(code, stage=STAGE, key="corpus.text_key", file=path, line=line, **params))
