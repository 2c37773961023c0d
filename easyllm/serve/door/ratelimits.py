"""How much one caller may ask: buckets of requests and of tokens that fill up by the minute."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from easyllm.serve.refusals import Refused

MOST_CALLERS = 10_000
"""Callers remembered before those with full buckets, who lose nothing by it, are forgotten."""
MINUTE = 60.0


@dataclass
class Bucket:
    """Holds at most what a minute brings. What an answer turned out to cost may leave it in debt."""

    per_minute: int
    level: float
    at: float

    def now(self, moment: float) -> float:
        """What is in it at ``moment``."""
        self.level = min(self.per_minute, self.level + (moment - self.at) * self.per_minute / MINUTE)
        self.at = moment
        return self.level

    def wait(self, amount: int, moment: float) -> float:
        """Seconds until ``amount`` is there; a larger one than ever fits has to wait for a full bucket."""
        lacking = min(amount, self.per_minute) - self.now(moment)
        return max(0.0, lacking * MINUTE / self.per_minute)


class RateLimits:
    """Requests and tokens per minute of each caller; None sets no limit."""

    def __init__(self, requests: int | None, tokens: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = {"requests": requests, "tokens": tokens}
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def admit(self, caller: str, requests: int, tokens: int) -> None:
        """Take ``requests`` and the ``tokens`` of the prompt, or refuse with 429 and the time until they are there."""
        asked = {"requests": requests, "tokens": tokens}
        for what, amount in asked.items():
            bucket = self._bucket(caller, what)
            wait = bucket.wait(amount, self._clock()) if bucket and amount else 0.0
            if bucket and wait > 0:
                seconds = math.ceil(wait)
                raise Refused(
                    429, f"rate limit of {bucket.per_minute} {what} per minute reached; ask again in {seconds} s",
                    code="rate_limit_exceeded", retry_after=seconds,
                )  # fmt: skip
        for what, amount in asked.items():
            self._take(caller, what, amount)

    def charge(self, caller: str, tokens: int) -> None:
        """Tokens that have been generated; the caller's next request waits until they are paid for."""
        self._take(caller, "tokens", tokens)

    def _take(self, caller: str, what: str, amount: int) -> None:
        bucket = self._bucket(caller, what)
        if bucket:
            bucket.now(self._clock())
            bucket.level -= amount

    def _bucket(self, caller: str, what: str) -> Bucket | None:
        limit = self._limits[what]
        if limit is None:
            return None
        if len(self._buckets) > MOST_CALLERS:
            now = self._clock()
            self._buckets = {k: b for k, b in self._buckets.items() if b.now(now) < b.per_minute}
        return self._buckets.setdefault((caller, what), Bucket(limit, limit, self._clock()))
