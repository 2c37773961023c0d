"""Finding the rank that hangs: every rank says now and then where it stands; the one that moves no more is named.

A hung rank is noticed by the others, which wait for it in a collective. They look at what each rank last said: the
one whose whole process stands still (a stopped process, a lost node) says nothing any more; the one that is stuck in
its own work (a dead file system, a bug) is the one that does not wait for others.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WAITS_IN = (
    "torch/distributed/distributed_c10d.py",
    "pipeline_parallel/p2p_communication.py",
    "distributed/param_and_grad_buffer.py",
)
"""A rank whose innermost frames are in these files waits for others."""
HUNG_EXIT = 75
"""Exit code of ranks that gave up on another one."""


@dataclass(frozen=True)
class Beat:
    """What one rank says of itself."""

    rank: int
    host: str
    pid: int
    step: int
    at: str
    """file:line function of the program's main thread."""
    waits: bool
    """Whether that is in a collective."""
    time: float


class Heartbeat:
    """Beats from a thread of its own until ``stop``; ends the process when the training has not moved too long."""

    def __init__(self, directory: Path, rank: int, ranks: int, timeout_seconds: float) -> None:
        self._directory, self._rank, self._ranks, self._timeout = directory, rank, ranks, timeout_seconds
        self._interval = interval(timeout_seconds)
        self._main = threading.main_thread().ident
        self._step, self._moved, self._stopped = 0, time.monotonic(), threading.Event()
        directory.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def moved(self, step: int) -> None:
        """The training stands at ``step`` now, or has done a part of it."""
        self._step, self._moved = step, time.monotonic()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stopped.is_set():
            self._write()
            if time.monotonic() - self._moved > self._timeout:
                self._give_up()
            self._stopped.wait(self._interval)

    def _write(self) -> None:
        frames = traceback.extract_stack(sys._current_frames()[self._main or 0])
        last = frames[-1]
        waits = any(frame.filename.endswith(WAITS_IN) for frame in frames[-4:])
        at = f"{last.filename}:{last.lineno} {last.name}"
        beat = Beat(self._rank, socket.gethostname(), os.getpid(), self._step, at, waits, time.time())
        path = self._directory / f"rank-{self._rank}.json"
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(beat)), "utf-8")
        os.replace(beside, path)

    def _give_up(self) -> None:
        """Leave the names for the stage, end the hung ranks of this host, and end."""
        time.sleep(2 * self._interval)  # the others notice within one interval: let them say a last word first
        hung = culprits(read(self._directory), time.time() - 4 * self._interval)
        if self._rank not in {beat.rank for beat in hung}:
            write_hung(self._directory, hung)
            for beat in hung:
                if beat.host == socket.gethostname():
                    with suppress(ProcessLookupError):
                        os.kill(beat.pid, signal.SIGKILL)  # a stopped process answers to nothing else
        elif len(hung) == self._ranks:
            write_hung(self._directory, hung)
        os._exit(HUNG_EXIT)


def interval(timeout_seconds: float) -> float:
    """Seconds between two words of a rank: with 1,000 ranks on one file system seldom, and often enough to be sure."""
    return min(30.0, timeout_seconds / 10)


def read(directory: Path) -> list[Beat]:
    """The last word of every rank."""
    return [Beat(**json.loads(path.read_text("utf-8"))) for path in sorted(directory.glob("rank-*.json"))]


def spoke_before(directory: Path, timeout_seconds: float) -> float | None:
    """Seconds since the last word of a rank that is at work, as far as words tell; None where none is."""
    ago = min((time.time() - beat.time for beat in read(directory)), default=None)
    return ago if ago is not None and ago < 3 * interval(timeout_seconds) else None


def culprits(beats: list[Beat], alive_after: float) -> list[Beat]:
    """Ranks that say nothing any more; where all speak, those that do not wait for others; where all wait, all."""
    silent = [beat for beat in beats if beat.time < alive_after]
    return silent or [beat for beat in beats if not beat.waits] or beats


def write_hung(directory: Path, hung: list[Beat]) -> None:
    """For the stage to read; the first rank that writes it is believed."""
    beside = directory / f".hung.{os.getpid()}"
    beside.write_text(json.dumps([asdict(beat) for beat in hung]), "utf-8")
    with suppress(FileExistsError):
        os.link(beside, directory / "hung.json")
    beside.unlink()


def read_hung(directory: Path) -> list[dict[str, Any]]:
    """The ranks that were named; none where training ended otherwise."""
    path = directory / "hung.json"
    return list(json.loads(path.read_text("utf-8"))) if path.is_file() else []
