"""The log of reviewers' decisions: one line each, appended in one write, safe with several writers and with kill -9."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from easyllm.core.artifact import sync_directory
from easyllm.core.errors import UserError, problem, refuse

Verdict: TypeAlias = Literal["accept", "edit", "reject", "undo"]
LotVerdict: TypeAlias = Literal["accept-lot", "accept-all", "undo-lot"]

TEXTS = ("instruction", "input", "output")


@dataclass(frozen=True)
class Decision:
    """What one author decided on one row; his next decision on it replaces this one."""

    row: str
    """``Row.id`` of the words as they were made, before any edit."""
    author: str
    verdict: Verdict
    """undo takes the author's decision on the row back."""
    edited: dict[str, str] | None = None
    """{"instruction", "input", "output"} as they should be; only with the verdict edit."""
    note: str = ""
    """Why, in the reviewer's words."""
    time: str = ""
    """UTC, ISO 8601; ``Log.append`` sets it."""

    def __post_init__(self) -> None:
        if (self.verdict == "edit") != (self.edited is not None):
            raise ValueError("edited stands with the verdict edit, and with no other")
        if self.edited is not None and (sorted(self.edited) != sorted(TEXTS) or missing_text(self.edited)):
            raise ValueError("edited must hold instruction, input and output; only the input may be empty")


@dataclass(frozen=True)
class Lot:
    """What one author decided on all rows at once; his next Lot replaces this one. It never outweighs a Decision."""

    verdict: LotVerdict
    """accept-lot: by the sample that was reviewed. accept-all: unseen. undo-lot takes the author's last one back."""
    author: str
    rows: str
    """``set_digest`` of the rows it was said of; of any other rows it says nothing."""
    sample: tuple[str, ...] = ()
    """Ids of the rows that chance chose, all decided on."""
    defects: int = 0
    """Rows of the sample that were rejected or edited."""
    of: int = 0
    """Rows in the lot."""
    error_rate: float = 0.0
    """Largest share of bad rows that is agreed to."""
    confidence: float = 0.0
    """That the lot's share is no larger."""
    i_know: bool = False
    """accept-all: the author said that he knows that nobody has looked."""
    time: str = ""
    """UTC, ISO 8601; ``Log.append`` sets it."""

    def __post_init__(self) -> None:
        if self.verdict == "accept-lot" and not (0 < self.error_rate < 1 and 0 < self.confidence < 1):
            raise ValueError("accept-lot needs an error_rate and a confidence between 0 and 1")
        if self.verdict == "accept-all" and not self.i_know:
            raise ValueError("accept-all needs i_know")

    def numbers(self) -> dict[str, Any]:
        """The statistics behind it; nothing for what was accepted unseen."""
        if self.verdict != "accept-lot":
            return {}
        return {
            "sample": len(self.sample),
            "of": self.of,
            "defects": self.defects,
            "error_rate": self.error_rate,
            "confidence": self.confidence,
        }


Entry: TypeAlias = Decision | Lot


def missing_text(edited: dict[str, str]) -> str:
    """The text that an edit left empty though nothing can be trained without it, or ""."""
    return next((name for name in ("instruction", "output") if not edited.get(name, "").strip()), "")


def as_json(entry: Entry) -> dict[str, Any]:
    """A line of the log; what says nothing is left out."""
    return {name: value for name, value in asdict(entry).items() if value not in (None, "", (), False)}


def line_of(entry: Entry) -> bytes:
    return json.dumps(as_json(entry), ensure_ascii=False).encode() + b"\n"


class Log:
    """A file that only grows. Several processes may append to it and read it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Entry) -> Entry:
        """Write ``entry`` with the time of now; when this returns it is on the disk. Raises UserError REVIEW-007."""
        entry = replace(entry, time=datetime.now(UTC).isoformat(timespec="microseconds"))
        self._write(line_of(entry))
        return entry

    def bring_in(self, entries: Iterable[Entry]) -> int:
        """Write what was decided elsewhere, each with its own time, and say how many entries that were.

        What stands here already is passed over, and so is what its author has decided otherwise here since.
        """
        own = self.read()
        here = {line_of(entry) for entry in own}
        latest: dict[tuple[str, str], str] = {}
        for entry in own:
            latest[_subject(entry)] = max(latest.get(_subject(entry), ""), entry.time)
        fresh = [e for e in entries if line_of(e) not in here and e.time >= latest.get(_subject(e), "")]
        if fresh:
            self._write(b"".join(line_of(entry) for entry in fresh))
        return len(fresh)

    def _write(self, line: bytes) -> None:
        try:
            with self._locked() as file:
                _heal(file)
                begin = os.fstat(file).st_size
                if os.write(file, line) != len(line):  # the disk is full: half a line is none
                    os.ftruncate(file, begin)
                    raise OSError(28, os.strerror(28))
                os.fsync(file)
        except OSError as error:
            raise refuse("REVIEW-007", path=str(self.path), reason=error.strerror) from error

    def read(self) -> list[Entry]:
        """All entries, in the order they were made; none where there is no file.

        Half a last line is what a kill left of a decision that was never confirmed, and is passed over; any other
        line that is no entry raises UserError REVIEW-004 with its number. REVIEW-011 where the file cannot be read.
        """
        if not self.path.is_file():
            return []
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)  # a line that is being written is seen whole or not at all
                *lines, last = file.read().split(b"\n")
        except OSError as error:
            raise refuse("REVIEW-011", path=str(self.path), reason=error.strerror) from error
        entries = [self._entry(line, number) for number, line in enumerate(lines, 1) if line.strip()]
        return [*entries, *([_parsed(last)] if _is_entry(last) else [])]

    def mark(self) -> tuple[int, int]:
        """Changes whenever the log does: for those who follow it."""
        if not self.path.is_file():
            return 0, 0
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file, open to append, with all others kept out; the kernel lets them in however we end."""
        new = not self.path.exists()
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if new:
                sync_directory(self.path.parent)
            yield file
        finally:
            os.close(file)

    def _entry(self, line: bytes, number: int) -> Entry:
        try:
            return _parsed(line)
        except ValueError as error:
            reason = _reason(error)
            raise UserError(problem("REVIEW-004", file=self.path, line=number, reason=reason)) from error


def _subject(entry: Entry) -> tuple[str, str]:
    """What an author's next entry replaces: his decision on a row, or his Lot."""
    return (entry.row if isinstance(entry, Decision) else "lot"), entry.author


def merged(logs: Iterable[Log]) -> list[Entry]:
    """The entries of several logs by their time, each log's own in their order whatever its clock did."""
    timed = []
    for log in logs:
        latest = ""
        for entry in log.read():
            latest = max(latest, entry.time)
            timed.append((latest, entry))
    return [entry for _, entry in sorted(timed, key=lambda pair: pair[0])]


def _heal(file: int) -> None:
    """Cut off what a kill left of a last line; an entry that only lacks its line end gets it."""
    size = os.fstat(file).st_size
    if not size or os.pread(file, 1, size - 1) == b"\n":
        return
    begin = size
    while begin and b"\n" not in (block := os.pread(file, min(begin, 1 << 16), max(0, begin - (1 << 16)))):
        begin -= len(block)
    if begin:
        begin = max(0, begin - (1 << 16)) + block.rindex(b"\n") + 1
    if _is_entry(os.pread(file, size - begin, begin)):
        os.write(file, b"\n")
    else:
        os.ftruncate(file, begin)


def _is_entry(line: bytes) -> bool:
    try:
        _parsed(line)
    except ValueError:
        return False
    return True


def _parsed(line: bytes) -> Entry:
    entry: Entry = _entries().validate_json(line, strict=False)
    return entry


@cache
def _entries() -> Any:
    from pydantic import Field, TypeAdapter

    return TypeAdapter(Annotated[Decision | Lot, Field(discriminator="verdict")])


def _reason(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("accept", "edit", "reject", "undo"))
    return f"{where}: {first['msg']}" if where else first["msg"]
