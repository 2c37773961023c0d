"""What a reviewer types: one key a decision on a terminal, one line a decision where lines are piped in."""

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

END = "q"
ARROWS = {b"[A": "k", b"[D": "k", b"[B": "j", b"[C": "j", b"OA": "k", b"OD": "k", b"OB": "j", b"OC": "j"}


class Keys(Protocol):
    def key(self) -> str:
        """The next key; q where the input has ended."""
        ...

    def line(self, prompt: str, text: str = "") -> str:
        """What ``text`` is changed to; it stands there to be changed where that can be, else Enter alone keeps it.

        Raises EOFError where the input ends, or Ctrl-D is typed.
        """
        ...


class Terminal:
    """Keys of the terminal that stdin and stdout are."""

    def __init__(self) -> None:
        self._file = sys.stdin.fileno()

    def key(self) -> str:
        with self._unbuffered():
            first = os.read(self._file, 1)  # one byte: what is typed ahead stays for ``line``
            if first == b"\x1b" and select.select([self._file], [], [], 0.05)[0]:
                return ARROWS.get(os.read(self._file, 2), "?")
        if first in (b"", b"\x04"):
            return END
        return first.decode("ascii", "replace")

    def line(self, prompt: str, text: str = "") -> str:
        import readline

        stands = text.isprintable()  # a text of several lines cannot stand in one
        readline.set_startup_hook(lambda: readline.insert_text(text if stands else ""))
        try:
            typed = input(prompt)
            return typed if stands else typed or text
        finally:
            readline.set_startup_hook()

    @contextmanager
    def _unbuffered(self) -> Iterator[None]:
        before = termios.tcgetattr(self._file)
        tty.setcbreak(self._file, termios.TCSADRAIN)
        try:
            yield
        finally:
            termios.tcsetattr(self._file, termios.TCSADRAIN, before)


class Lines:
    """Each line begins with a key; what follows answers the question that the key asks."""

    def __init__(self) -> None:
        self._rest: str | None = None

    def key(self) -> str:
        line = sys.stdin.readline()
        if not line:
            return END
        key, _, rest = line.strip().partition(" ")
        self._rest = rest.strip() or None
        return key[:1]

    def line(self, prompt: str, text: str = "") -> str:
        rest, self._rest = self._rest, None
        if rest is not None:
            return rest
        print(prompt, end="", flush=True)
        if not (line := sys.stdin.readline()):
            raise EOFError
        return line.rstrip("\n") or text
