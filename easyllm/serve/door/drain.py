"""The end of a server: no new requests, time for those under way, then a clean cut."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable
from types import FrameType
from typing import Protocol, TypeVar

import uvicorn

from easyllm.core.asgi import Server
from easyllm.serve.contract import EngineFailed

P = TypeVar("P")
CUT_SECONDS = 3
"""How long the connections have, after the cut, to carry away what was said last."""
STOPPING = "the server is stopping; ask again when it is back"


class Interrupt:
    """Ends answers under way with an error that every route can tell in its own words."""

    def __init__(self) -> None:
        self.now = False
        self._steps: dict[object, asyncio.Task[object] | None] = {}

    async def through(self, pieces: AsyncGenerator[P, None]) -> AsyncGenerator[P, None]:
        """The pieces, until ``cut``. Raises EngineFailed then. The caller closes ``pieces``."""
        while True:
            if self.now:
                raise EngineFailed(STOPPING, 503)
            step = object()
            self._steps[step] = asyncio.current_task()
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self.now or task is None:
                    raise
                task.uncancel()
                raise EngineFailed(STOPPING, 503) from None
            finally:
                del self._steps[step]
            yield piece

    def cut(self) -> None:
        """Whoever waits for a token waits no longer."""
        self.now = True
        for task in self._steps.values():
            if task:
                task.cancel()


class Draining(Protocol):
    """What a server that ends needs of its desk."""

    closing: bool
    in_flight: int

    def cut(self) -> None: ...


class DrainingServer(Server):
    """On SIGTERM or Ctrl-C says 503 to new requests, and ends when the last answer has, or when time is up.

    It goes on listening meanwhile: a balancer that has not heard of it yet gets an answer it understands. A second
    signal means now. SIGHUP calls ``read_again``, where it is given.
    """

    def __init__(
        self, config: uvicorn.Config, desk: Draining, drain_seconds: int, read_again: Callable[[], None] | None = None
    ) -> None:
        super().__init__(config)
        self._desk = desk
        self._drain_seconds = drain_seconds
        self._read_again = read_again
        self._deadline: float | None = None
        self._wants_reading = False
        if read_again:
            signal.signal(signal.SIGHUP, self._hang_up)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._desk.closing = True
        now = time.monotonic()
        self._deadline = now + self._drain_seconds if self._deadline is None else now

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls it ten times a second; True ends the server."""
        if self._wants_reading and self._read_again:
            self._wants_reading = False
            self._read_again()
        if self._deadline is not None:
            late = time.monotonic() >= self._deadline
            if late:
                self._desk.cut()
            self.should_exit = self.should_exit or late or not self._desk.in_flight
        return await super().on_tick(counter)

    def _hang_up(self, sig: int, frame: FrameType | None) -> None:
        self._wants_reading = True  # read between two requests, not wherever the signal happened to fall
