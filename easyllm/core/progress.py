"""Progress on stderr: a bar with ETA on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from easyllm.core.messages import say, term

LOG_EVERY_SECONDS = 10.0


def note(text: str) -> None:
    """One line of prose on stderr; results go to stdout."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """``total`` units of work called ``unit``; ``advance`` may carry figures to show (loss, rate, ...).

    Label, unit and figures are English names that ``term`` knows.
    """

    def __init__(self, label: str, total: int | None, unit: str, done: int = 0) -> None:
        self._label, self._total, self._unit = term(label), total, term(unit)
        self._done = self._first = done
        self._started = self._logged = time.monotonic()
        self._figures: dict[str, Any] = {}
        self._bar: Any = None
        self._task: Any = None
        if sys.stderr.isatty():
            self._open_bar()

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn(self._unit), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )  # fmt: skip
        self._bar.start()
        self._task = self._bar.add_task(self._label, total=self._total, completed=self._done, figures="")

    def advance(self, amount: int = 1, **figures: Any) -> None:
        self._done += amount
        self._figures |= figures
        if self._bar:
            self._bar.update(self._task, advance=amount, figures=self._figures_text())
            return
        now = time.monotonic()
        if now - self._logged >= LOG_EVERY_SECONDS and self._done != self._total:
            self._logged = now
            note(self._line(now))

    def close(self, whole: bool) -> None:
        if self._bar:
            self._bar.stop()
        elif whole:
            note(self._line(time.monotonic()))

    def _line(self, now: float) -> str:
        done = f"{self._done:,}" + (f"/{self._total:,}" if self._total else "") + f" {self._unit}"
        parts = [say("named", name=self._label, value=done)]
        elapsed, fresh = now - self._started, self._done - self._first
        if self._total and fresh and self._done < self._total:
            left = int(elapsed / fresh * (self._total - self._done))
            parts.append(f"{term('ETA')} {left // 60}:{left % 60:02d}")
        else:
            parts.append(f"{elapsed:.1f} s")
        return " · ".join([*parts, *([self._figures_text()] if self._figures else [])])

    def _figures_text(self) -> str:
        return " ".join(f"{term(name)} {_short(value)}" for name, value in self._figures.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def progress(label: str, total: int | None, unit: str, done: int = 0) -> Iterator[Progress]:
    """``with progress("corpus", 1200, "documents") as bar: bar.advance()``; ``done`` counts resumed work."""
    bar = Progress(label, total, unit, done)
    try:
        yield bar
    except BaseException:
        bar.close(whole=False)
        raise
    bar.close(whole=True)
