"""Places at the engine, and the queue before them: first come, first served, and never longer than allowed."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from easyllm.serve.refusals import Refused

LONGEST_ADVICE_SECONDS = 60
NEWEST_WEIGHT = 0.2
"""How much the last answer's duration counts in the mean that Retry-After is made of."""


class Queue:
    """Gives out ``places``; at most ``most_waiting`` wait for one. For one event loop."""

    def __init__(self, places: int, most_waiting: int) -> None:
        self.places = places
        self.most_waiting = most_waiting
        self.running = 0
        """Places taken."""
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._mean_seconds = 1.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def place(self, count: int = 1) -> AsyncIterator[None]:
        """So many places, all of them or none, in order of arrival, for as long as the block lasts.

        Raises Refused with 429 where the queue is full. One who stops waiting leaves the queue.
        """
        await self._turn(count)
        since = time.monotonic()
        try:
            yield
        finally:
            self._mean_seconds += NEWEST_WEIGHT * (time.monotonic() - since - self._mean_seconds)
            self.leave(count)

    def leave(self, count: int = 1) -> None:
        """Places go to those who have waited longest."""
        self.running -= count
        self._hand_out()

    def send_away(self, refused: Refused) -> None:
        """Nobody waits any longer: the server is about to end."""
        for turn, _ in self._waiting:
            if not turn.done():
                turn.set_exception(refused)
        self._waiting.clear()

    def require_room(self, count: int = 1) -> None:
        """Refused with 429 where so many places are not free now and the queue is full."""
        if not self._fits(count) and len(self._waiting) >= self.most_waiting:
            raise self._full()

    def _fits(self, count: int) -> bool:
        return not self._waiting and self.running + count <= self.places

    async def _turn(self, count: int) -> None:
        if self._fits(count):
            self.running += count
            return
        self.require_room(count)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, count))
        try:
            await turn
        except asyncio.CancelledError:
            if (turn, count) in self._waiting:
                self._waiting.remove((turn, count))
                self._hand_out()  # the next may fit where this one did not
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave(count)  # it was given its places in the very moment in which it went away
            raise

    def _hand_out(self) -> None:
        """A large request waits at the head until all of its places are there: small ones must not starve it."""
        while self._waiting and self.running + self._waiting[0][1] <= self.places:
            turn, count = self._waiting.popleft()
            if not turn.done():
                self.running += count
                turn.set_result(None)

    def _full(self) -> Refused:
        """With a guess at when a place will be free, from how long answers have taken."""
        seconds = math.ceil(self._mean_seconds * (len(self._waiting) + 1) / self.places)
        return Refused(429, "Model is overloaded", retry_after=max(1, min(LONGEST_ADVICE_SECONDS, seconds)))
