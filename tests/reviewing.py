"""What tests of the review share: folders with rows to review, and a reviewer at a real terminal."""

import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from easyllm.instruct.row import Row

ROWS = [Row(f"Name {number} animals", "", f"Answer {number}", language="en", score=4) for number in range(4)]


def to_review(folder: Path, rows: list[Row] | None = None, name: str = "rows") -> Path:
    """``folder`` with ``NAME.not_cleaned.jsonl`` in it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in (rows or ROWS)]
    (folder / f"{name}.not_cleaned.jsonl").write_text("".join(lines), "utf-8")
    return folder


class AtTerminal:
    """A process whose stdin, stdout and stderr are a terminal of its own, and the person in front of it."""

    def __init__(self, *arguments: Any, **environment: str) -> None:
        self._screen, keys = pty.openpty()
        os.set_blocking(self._screen, False)
        self._settings = termios.tcgetattr(keys)
        self._keys = keys
        self.seen = b""
        self._from = 0
        kept = {name: value for name, value in os.environ.items() if name not in ("VISUAL", "EDITOR")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "easyllm", *map(str, arguments)],
            stdin=keys, stdout=keys, stderr=keys, start_new_session=True,
            preexec_fn=_own_terminal, env=kept | {"TERM": "xterm", "COLUMNS": "200", "LINES": "40"} | environment,
        )  # fmt: skip

    def press(self, keys: str, wait_for: str) -> None:
        """Type, and wait until the words stand on what comes after."""
        self._from = len(self.seen)
        os.write(self._screen, keys.encode())
        self.wait(wait_for)

    def wait(self, words: str, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while words.encode() not in self.seen[self._from :]:
            assert time.monotonic() < until, f"{words!r} is not on:\n{self.seen.decode(errors='replace')[-3000:]}"
            self._look()

    def end(self, keys: str) -> int:
        """Type the last keys; the exit code. The terminal must be as it was."""
        os.write(self._screen, keys.encode())
        until = time.monotonic() + 60
        while self._process.poll() is None:
            assert time.monotonic() < until, self.seen.decode(errors="replace")[-3000:]
            self._look()
        self._look()
        assert termios.tcgetattr(self._keys) == self._settings
        return self._process.returncode

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._keys)
        os.close(self._screen)

    def _look(self) -> None:
        while select.select([self._screen], [], [], 0.1)[0]:
            self.seen += os.read(self._screen, 1 << 16)


def _own_terminal() -> None:
    """Ctrl-C reaches a process only from the terminal that is its own."""
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def at_terminal(*arguments: Any, **environment: str) -> Iterator[AtTerminal]:
    reviewer = AtTerminal(*arguments, **environment)
    try:
        yield reviewer
    finally:
        reviewer.close()
