"""Rows of a user's data files: JSONL, plain or compressed, read one at a time, every fault with its file and line.

``.jsonl``, ``.jsonl.gz`` and ``.jsonl.zst`` are read in constant memory, whole or in ``Cut``s. A ``.json`` file may
hold one list of objects instead, which is read whole.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from easyllm.core.errors import UserError, problem

LONGEST_ROW_BYTES = 1 << 24
"""A longer line is a file without line ends, not a row; tokenising this much as one text already takes 2 GB."""

LONGEST_LIST_BYTES = 1 << 28
"""A list is read whole, and its objects take several times its size in memory."""

CHECKED_BYTES = 20_000_000
"""Data up to this size is read whole by a check; more is left to the run, which reads every row anyway."""

_CHUNK_BYTES = 1 << 17
_BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_rows(path: Path, stage: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of every row of ``path``, lines counted from 1; blank lines are passed over.

    Raises UserError: ROWS-001 not JSON, ROWS-002 not an object, ROWS-003 compressed data cut or broken,
    ROWS-004 not UTF-8, ROWS-005 half a surrogate pair, ROWS-006 too long for one row.
    """
    return iter(Rows(path, stage))


def few(files: Iterable[Path]) -> bool:
    """Whether a check may read all of ``files``."""
    return sum(file.stat().st_size for file in files) <= CHECKED_BYTES


def read_text(path: Path, stage: str) -> str:
    """The whole text of a plain-text file. Raises UserError ROWS-003, ROWS-004 and ROWS-006 as ``read_rows`` does."""
    return Rows(path, stage).whole_text()


@dataclass(frozen=True)
class Cut:
    """A part of a JSONL file: the rows whose line begins in bytes ``begin`` to ``end`` of it."""

    begin: int
    end: int
    data: bytes | None = None
    """The lines themselves, unpacked: a compressed file cannot be entered in the middle."""
    lines_before: int | None = None
    """Lines of the file before the cut; None: not known, and counted only when an error must name its line."""


class Rows:
    """What ``read_rows`` gives, with the ``position`` in the file for a progress bar; ``cut`` is all that is read."""

    def __init__(self, path: Path, stage: str, cut: Cut | None = None) -> None:
        self._path, self._stage, self._cut = path, stage, cut
        self._raw: BinaryIO | None = None

    @property
    def position(self) -> int:
        """Bytes read so far of the file as it lies on disk."""
        return self._raw.tell() if self._raw and not self._raw.closed else 0

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line, row); lines are counted from the beginning of the cut, ``line_of`` makes the file's of them."""
        if self._cut:
            yield from self._rows_of_cut(self._cut)
            return
        with self._path.open("rb") as self._raw:
            try:
                yield from self._rows(decompressed(self._raw, self._path))
            except BROKEN as error:
                raise broken(self._path, self._stage, error) from error

    def line_of(self, number: int) -> int:
        """The line of the file that ``number`` of the cut stands for."""
        if self._cut is None:
            return number
        before = self._cut.lines_before
        return number + (_count_lines(self._path, self._cut.begin) if before is None else before)

    def whole_text(self) -> str:
        """The file's contents as one text, whatever it holds."""
        with self._path.open("rb") as raw:
            try:
                return self._text(decompressed(raw, self._path).read(LONGEST_ROW_BYTES + 1).removeprefix(_BOM), 1)
            except BROKEN as error:
                raise broken(self._path, self._stage, error) from error

    def _rows(self, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
        number, line = 1, file.readline(LONGEST_ROW_BYTES + 1).removeprefix(_BOM)
        while line.isspace():
            number, line = number + 1, file.readline(LONGEST_ROW_BYTES + 1)
        if plain_suffix(self._path) == ".json" and line.lstrip().startswith(b"["):
            yield from self._list(line + file.read(LONGEST_LIST_BYTES + 1), number)
            return
        while line:
            if not line.isspace():
                yield number, self._object(self._parse(line, number), number)
            number, line = number + 1, file.readline(LONGEST_ROW_BYTES + 1)

    def _rows_of_cut(self, cut: Cut) -> Iterator[tuple[int, dict[str, Any]]]:
        with io.BytesIO(cut.data) if cut.data is not None else self._path.open("rb") as file:
            at, number = 0, 1
            if cut.data is None:
                at = _to_line(file, cut.begin)
            end = len(cut.data) if cut.data is not None else cut.end
            number += at > cut.begin and cut.data is None  # the line that began before the cut is not of it
            while at < end and (line := file.readline(LONGEST_ROW_BYTES + 1)):
                at += len(line)
                if number == 1 and not cut.begin:
                    line = line.removeprefix(_BOM)
                if not line.isspace():
                    yield number, self._object(self._parse(line, number), number)
                number += 1

    def _list(self, data: bytes, line: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The objects of one JSON list that starts on ``line``, each with the line that it starts on."""
        text = self._text(data, line, LONGEST_LIST_BYTES)
        self._parse(data, line, LONGEST_LIST_BYTES)  # a fault anywhere refuses the file, and json names its line
        decode, at = json.JSONDecoder().raw_decode, 0
        while (start := _past(text, at, " \t\r\n[,")) < len(text) and text[start] != "]":
            line += text.count("\n", at, start)
            value, at = decode(text, start)
            yield line, self._object(value, line)
            line += text.count("\n", start, at)

    def _text(self, data: bytes, number: int, most: int | None = None) -> str:
        most = most or LONGEST_ROW_BYTES
        if len(data) > most:
            raise self._fault("ROWS-006", number, limit=f"{most >> 20} MiB")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            line = number + data.count(b"\n", 0, error.start)
            column = error.start - data.rfind(b"\n", 0, error.start)
            raise self._fault(
                "ROWS-004", line, column=column, byte=f"0x{data[error.start]:02x}", guess=guess_encoding(data)
            ) from error

    def _parse(self, data: bytes, number: int, most: int | None = None) -> Any:
        text = self._text(data, number, most).rstrip()  # a value that breaks off does so on its line, not the next
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            near = text[max(0, error.pos - 20) : error.pos + 20].strip()
            raise self._fault(
                "ROWS-001",
                number + error.lineno - 1,
                column=error.colno,
                expected=error.msg[:1].lower() + error.msg[1:],
                near=near,
            ) from error
        except (
            ValueError,
            RecursionError,
        ) as error:  # a number of thousands of digits; thousands of brackets
            raise self._fault("ROWS-001", number, column=1, expected=str(error), near=text[:40]) from error
        if _SURROGATE.search(data):
            self._require_whole_characters(value, number)
        return value

    def _require_whole_characters(self, value: Any, number: int) -> None:
        r"""JSON may escape half of a pair (\ud83d alone), which no encoder can write as UTF-8."""
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            near = error.object[max(0, error.start - 20) : error.start]
            raise self._fault("ROWS-005", number, half=half, near=near) from error

    def _object(self, value: Any, number: int) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._fault("ROWS-002", number, found=json_kind(value), near=json.dumps(value)[:40])
        return value

    def _fault(self, code: str, line: int, **params: Any) -> UserError:
        return UserError(problem(code, stage=self._stage, file=self._path, line=self.line_of(line), **params))


def _to_line(file: BinaryIO, at: int) -> int:
    """Go to the first line that begins at byte ``at`` or after it; the byte it begins at."""
    if at:
        file.seek(at - 1)
        while (rest := file.readline(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
            continue
    return file.tell()


def _count_lines(path: Path, end: int) -> int:
    """Line ends in the first ``end`` bytes."""
    count = 0
    with path.open("rb") as file:
        while end > 0 and (data := file.read(min(end, _CHUNK_BYTES))):
            count, end = count + data.count(b"\n"), end - len(data)
    return count


def cuts_of_packed(path: Path, stage: str, size: int) -> Iterator[tuple[Cut, int]]:
    """(cut, bytes on disk read for it) of a compressed JSONL file: whole lines of about ``size`` bytes unpacked.

    Raises UserError ROWS-003 where the file is broken.
    """
    with path.open("rb") as raw:
        try:
            file, at, lines, before = decompressed(raw, path), 0, 0, 0
            while data := file.read(size):
                data += file.readline(LONGEST_ROW_BYTES + 1)
                yield Cut(at, at + len(data), data, lines), raw.tell() - before
                at, lines, before = at + len(data), lines + data.count(b"\n"), raw.tell()
        except BROKEN as error:
            raise broken(path, stage, error) from error


def decompressed(raw: BinaryIO, path: Path) -> BinaryIO:
    """The file's contents, unpacked as its name says: .gz, .zst or as it is. Reading may raise ``BROKEN``."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if path.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_Zstandard(raw), _CHUNK_BYTES))
    return raw


class _Zstandard(io.RawIOBase):
    """Unpacks frame after frame. zstandard's own stream_reader takes a cut file for a short one and says nothing."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        # Dumps packed with --long use windows up to 2 GiB; the library's default refuses them.
        self._frames = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._broken = zstandard.ZstdError
        self._raw, self._frame, self._packed, self._ready = raw, self._frames.decompressobj(), b"", b""
        self._inside = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._packed = self._packed or self._raw.read(_CHUNK_BYTES)
            if not self._packed:
                if self._inside:
                    raise EOFError("the last frame is cut")
                return 0
            self._unpack()
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _unpack(self) -> None:
        if not self._inside:
            self._frame = self._frames.decompressobj()
        try:
            self._ready = self._frame.decompress(self._packed)
        except self._broken as error:
            raise EOFError(str(error)) from error
        self._inside = not self._frame.eof
        self._packed = self._frame.unused_data if self._frame.eof else b""


BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a cut or broken compressed file raises."""


def broken(path: Path, stage: str, error: Exception) -> UserError:
    return UserError(problem("ROWS-003", stage=stage, file=path, reason=str(error)))


def plain_suffix(path: Path) -> str:
    """The suffix without the compression: ``.jsonl`` of ``a.jsonl.gz``."""
    return Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix


def json_kind(value: Any) -> str:
    """What JSON calls a value: object, list, string, number, true/false or null."""
    kinds = {dict: "object", list: "list", str: "string", int: "number", float: "number", bool: "true/false"}
    return kinds.get(type(value), "null")


def guess_encoding(data: bytes) -> str:
    """The encoding that ``data``, which is not UTF-8, most likely has, by the name that iconv knows."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data:
        return "UTF-16"
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return "LATIN1"
    return "GB18030"


def _past(text: str, at: int, skipped: str) -> int:
    while at < len(text) and text[at] in skipped:
        at += 1
    return at
