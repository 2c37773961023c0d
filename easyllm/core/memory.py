"""How much memory a stage and all its processes hold at the most."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SAMPLE_SECONDS = 0.5


@dataclass
class Peak:
    """Largest sum of resident memory over this process and its descendants, in bytes, sampled."""

    bytes: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """``with peak_memory() as peak: work()``, then read ``peak.bytes``.

    Pages that processes share are counted in each of them, so the sum is an upper bound.
    """
    import psutil

    peak, done = Peak(), threading.Event()
    me = psutil.Process()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue  # it ended between the listing and the look
            peak.bytes = max(peak.bytes, total)

    thread = threading.Thread(target=sample, name="peak-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def give_memory_back() -> None:
    """What is free, and what glibc keeps for this process all the same, goes back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl and macOS have none
    if trim:
        trim(0)
