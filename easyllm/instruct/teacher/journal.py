"""A JSONL file that only grows: every line whole, whatever killed the one who wrote it."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from easyllm.core.artifact import sync_directory
from easyllm.core.rows import LONGEST_ROW_BYTES, read_rows

STAGE = "instruct"


class Journal:
    """Opened, it is whole: a last line that a kill has cut is gone from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if new:
            sync_directory(path.parent)
        self._mend()

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line, row) of what it holds. Raises UserError ROWS-00x for a line that is broken before the last."""
        return read_rows(self.path, STAGE)

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Hand the lines to the kernel in one piece: they outlive this process, and with ``sync`` the machine."""
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        size = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError:  # a disk that fills up takes a part and refuses the rest
            os.ftruncate(self._file, size)
            raise

    def sync(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        self.sync()
        os.close(self._file)

    def _mend(self) -> None:
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, LONGEST_ROW_BYTES, max(0, size - LONGEST_ROW_BYTES))
        last = tail[tail.rfind(b"\n") + 1 :]
        if not last:
            return
        try:
            json.loads(last)
        except ValueError:
            os.ftruncate(self._file, size - len(last))
        else:
            os.write(self._file, b"\n")  # whole but for its end: an editor leaves it so
        self.sync()
