"""Start a program on several ranks with torchrun and wait for it; no rank outlives the one who started it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from easyllm.core.errors import failed

if TYPE_CHECKING:
    import psutil

LAUNCHER = "EASYLLM_LAUNCHER_PID"
"""Tells a rank which process waits for it."""


def torchrun_command(module: str, arguments: list[str], ranks: int, *options: str) -> list[str]:
    """The exact command line: one node, ``ranks`` processes, rendezvous on loopback; more ``options`` of torchrun."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(ranks),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1",
        *options, "--module", module, *arguments,
    ]  # fmt: skip


def run_ranks(
    module: str,
    arguments: list[str],
    ranks: int,
    env: dict[str, str] | None = None,
    ends_on_sigterm: bool = False,
) -> None:
    """Run ``python -m module arguments`` on ``ranks`` processes; what they print goes to our stderr.

    Raises StageFailed when a rank dies. Interrupted, it takes the ranks along: what they had saved is whole.
    A program that ``ends_on_sigterm`` of itself is given SIGTERM when we get it, and the time to save; a second one
    does not wait. Either way KeyboardInterrupt comes out.
    """
    # Ctrl-C reaches the whole process group; only we answer it, or every rank prints a traceback.
    command = torchrun_command(module, arguments, ranks, "--signals-to-handle", "SIGTERM")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads_per_rank(ranks)), LAUNCHER: str(os.getpid())}
    environment |= env or {}
    with _children_ignore_interrupts():
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno())
    try:
        with _pass_on_sigterm(process) if ends_on_sigterm else nullcontext():
            code = process.wait()
    except BaseException:
        _kill_with_ranks(process)
        raise
    if code:
        raise failed("RANKS-001", module=module, code=code, ranks=ranks, command=" ".join(command))


@contextmanager
def _pass_on_sigterm(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """The ranks get it from us and not from torchrun, which kills them 30 seconds later, saved or not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = []

    def pass_on(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        asked.append(True)
        for rank in _ranks_of(process):
            with suppress(psutil.NoSuchProcess):
                rank.terminate()

    import psutil

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked:
        raise KeyboardInterrupt


def _ranks_of(process: "subprocess.Popen[bytes]") -> "list[psutil.Process]":
    import psutil

    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@contextmanager
def _children_ignore_interrupts() -> Iterator[None]:
    """A program started inside inherits that SIGINT is ignored; signals can be set in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _kill_with_ranks(process: "subprocess.Popen[bytes]") -> None:
    """torchrun first, so that it has nothing to say about its ranks."""
    import psutil

    ranks = _ranks_of(process)
    process.kill()
    for rank in ranks:
        with suppress(psutil.NoSuchProcess):
            rank.kill()
    process.wait()


def threads_per_rank(ranks: int) -> int:
    """OMP threads for each rank: the cores shared out, at least one. Oversubscription costs 4x (measured)."""
    set_by_user = os.environ.get("OMP_NUM_THREADS")
    if set_by_user and set_by_user.isdigit():
        return int(set_by_user)
    return max(1, len(os.sched_getaffinity(0)) // ranks) if hasattr(os, "sched_getaffinity") else 1


def die_with_parent() -> None:
    """Call first in a rank: torchrun starts ranks in sessions of their own, so a killed launcher leaves orphans.

    An orphan would go on writing into the checkpoint that the next run resumes. The rank ends when torchrun does,
    and when the process that called ``run_ranks`` does; a command started by hand has torchrun alone.
    """
    parent, launcher = os.getppid(), os.environ.get(LAUNCHER)
    launcher_lives = _watch(int(launcher)) if launcher else lambda: True

    def watch() -> None:
        while os.getppid() == parent and launcher_lives():
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


def _watch(pid: int) -> Callable[[], bool]:
    """A question that is answered with yes while process ``pid`` works, even if its number is used again later."""
    import psutil

    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return lambda: False

    def lives() -> bool:
        try:  # a zombie has ended: whoever started it may read our output to its end before it looks
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return lives
