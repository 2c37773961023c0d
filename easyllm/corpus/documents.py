"""The documents of the input files, one at a time, every fault with its file and line."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from easyllm.core.errors import UserError, problem
from easyllm.core.rows import BROKEN, Rows, broken, decompressed, json_kind, plain_suffix


class Document(NamedTuple):
    """One text, the file it stands in, and how many bytes of that file have been read."""

    text: str
    file: Path
    position: int


def documents(file: Path, text_key: str, stage: str) -> Iterator[Document]:
    """Every document of ``file``, empty ones too. Raises UserError ROWS-00x, CORPUS-001 and CORPUS-002."""
    if plain_suffix(file) == ".txt":
        yield _whole_text(file, stage)
        return
    rows = Rows(file, stage)
    for line, row in rows:
        text = row.get(text_key)
        if not isinstance(text, str):
            raise _no_text(row, text_key, stage, file, line)
        yield Document(text, file, rows.position)


def _whole_text(file: Path, stage: str) -> Document:
    with file.open("rb") as raw:
        try:
            data = decompressed(raw, file).read()
        except BROKEN as error:
            raise broken(file, stage, error) from error
        size = raw.tell()
    try:
        return Document(data.decode("utf-8"), file, size)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            problem(
                "ROWS-004",
                stage=stage,
                file=file,
                line=line,
                column=error.start - data.rfind(b"\n", 0, error.start),
                byte=f"0x{data[error.start]:02x}",
                guess="GB18030",
            )
        ) from error


def _no_text(row: dict[str, object], text_key: str, stage: str, file: Path, line: int) -> UserError:
    if text_key in row:
        found = json_kind(row[text_key])
        return UserError(problem("CORPUS-002", stage=stage, file=file, line=line, text_key=text_key, found=found))
    there = list(row)
    near = difflib.get_close_matches(text_key, there, n=1, cutoff=0.0)
    nearest = near[0] if near else text_key
    return UserError(
        problem(
            "CORPUS-001",
            stage=stage,
            key="corpus.text_key",
            file=file,
            line=line,
            text_key=text_key,
            there=", ".join(there) or "-",
            nearest=nearest,
        )
    )
