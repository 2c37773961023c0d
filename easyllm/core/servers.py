"""A server process of our own: started on a free port, awaited until healthy, stopped with SIGTERM."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from easyllm.core.addresses import direct_opener
from easyllm.core.errors import StageFailed, failed

START_SECONDS = 600
"""A large model may take minutes to read; a server that dies is noticed at once."""


class ServerEnded(StageFailed):
    """The server ended before it was healthy; it has said why on stderr."""

    def __init__(self, code: int) -> None:
        super().__init__(f"SERVE the server ended with exit code {code} before it was healthy")
        self.code = code


@dataclass
class Running:
    """A healthy server."""

    url: str
    seconds_to_healthy: float
    process: "subprocess.Popen[str]"


@contextmanager
def running(command: list[str], drain_seconds: int) -> Iterator[Running]:
    """The server that ``command`` starts, for as long as the block lasts; its URL is its first line on stdout.

    What it says goes to our stderr. Raises StageFailed when it dies or cannot be stopped cleanly.
    """
    started = time.monotonic()
    process = start(command)
    try:
        url = healthy_url(process)
        yield Running(url, time.monotonic() - started, process)
    except BaseException:
        stop(process, drain_seconds, must_be_clean=False)
        raise
    stop(process, drain_seconds, must_be_clean=True)


def start(command: list[str]) -> "subprocess.Popen[str]":
    """The process, in a session of its own: Ctrl-C in the terminal is for us, not for the server behind us."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip


def healthy_url(process: "subprocess.Popen[str]") -> str:
    """The address of a server just started, once it is healthy. Raises StageFailed when it ends or time is up."""
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    wait_until_healthy(url, process)
    return url


def wait_until_healthy(url: str, process: "subprocess.Popen[str]") -> None:
    """Return when /health answers 200. Raises StageFailed when the process ends first or time is up."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        code = process.poll()
        if code is not None:
            raise ServerEnded(code)
        if url and is_healthy(url):
            return
        time.sleep(0.1)
    raise failed("SERVE-008", stage="serve", seconds=START_SECONDS)


def is_healthy(url: str) -> bool:
    try:
        with direct_opener().open(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # refused, or 503 while the model loads
        return False


def stop(process: "subprocess.Popen[str]", drain_seconds: int, must_be_clean: bool) -> None:
    """SIGTERM, wait as long as it may drain, then SIGKILL. Raises StageFailed where a clean stop was due."""
    process.terminate()
    try:
        code = process.wait(timeout=drain_seconds + 30)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    finally:
        if process.stdout:
            process.stdout.close()
    if code and must_be_clean:
        raise failed("SERVE-009", stage="serve", code=code)
