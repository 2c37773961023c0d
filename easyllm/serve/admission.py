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
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 1.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place, in order of arrival, for as long as the block lasts.

        Raises Refused with 429 where the queue is full. One who stops waiting leaves the queue.
        """
        await self._turn()
        since = time.monotonic()
        try:
            yield
        finally:
            self._mean_seconds += NEWEST_WEIGHT * (time.monotonic() - since - self._mean_seconds)
            self.leave()

    def take(self) -> None:
        """A place at once, or 429; ``leave`` gives it back."""
        if self.running >= self.places:
            raise self._full()
        self.running += 1

    def leave(self) -> None:
        """The place goes to the one who has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def send_away(self, refused: Refused) -> None:
        """Nobody waits any longer: the server is about to end."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(refused)

    async def _turn(self) -> None:
        if self.running < self.places:  # then nobody waits: a place that is left goes from hand to hand
            self.running += 1
            return
        if len(self._waiting) >= self.most_waiting:
            raise self._full()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            elif turn.exception() is None:
                self.leave()  # it was given the place in the very moment in which it went away
            raise

    def _full(self) -> Refused:
        """With a guess at when a place will be free, from how long answers have taken."""
        seconds = math.ceil(self._mean_seconds * (len(self._waiting) + 1) / self.places)
        return Refused(429, "Model is overloaded", retry_after=max(1, min(LONGEST_ADVICE_SECONDS, seconds)))
