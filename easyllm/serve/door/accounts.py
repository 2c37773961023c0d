"""What one request was, cost and took: ``request.state.account``, for headers, metrics and the request log.

``AccountKeeper`` opens it before any route runs; the desk fills it in while the request waits and is answered.
Seconds are final for a stream when it ends, and for anything else when its response is made.
"""

import re
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.datastructures import Headers

KNOWN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""A request id that may go into headers and logs as it is."""


@dataclass
class Account:
    """One HTTP request. Moments are of ``time.perf_counter``."""

    id: str
    method: str
    route: str
    """The route's path, or ``other`` where there is none: clients must not be able to invent names for metrics."""
    caller: str
    """Whose rate limits count: the key's name, or else the client's address."""
    key: str | None = None
    """The name of the key; never the key."""
    came: datetime = field(default_factory=lambda: datetime.now(UTC))
    arrived: float = field(default_factory=time.perf_counter)
    asked: float | None = None
    """When every check had passed and it began to wait for a place."""
    queue_seconds: float = 0.0
    """Waited for places at the engine, in all."""
    first_token: float | None = None
    last_token: float | None = None
    ended: float | None = None
    model: str | None = None
    """The model or adapter that was asked."""
    prompt_tokens: int = 0
    scored_tokens: int = 0
    """Of prompts whose log-probabilities were asked for: the caller's rate has been charged for reading them."""
    max_new_tokens: int = 0
    answer_tokens: int = 0
    """Of all answers, where a request wants several."""
    finish: str | None = None
    """length, eos_token or stop_sequence; ``error`` where the engine failed, ``cancelled`` where the client went."""
    status: int | None = None
    words: dict[str, list[str]] | None = None
    """``prompts`` and ``answers``; kept only where serve.log_prompts says so."""

    @property
    def total_seconds(self) -> float:
        """Since it arrived; until it ended, once it has."""
        return (self.ended or time.perf_counter()) - self.arrived

    @property
    def validation_seconds(self) -> float:
        """Reading, checking and tokenizing it."""
        return (self.asked or self.ended or time.perf_counter()) - self.arrived

    @property
    def inference_seconds(self) -> float:
        """At the engine, so far."""
        return max(0.0, self.total_seconds - self.validation_seconds - self.queue_seconds) if self.asked else 0.0

    @property
    def first_token_seconds(self) -> float | None:
        """From arrival to the first token, waiting included: what a user sees."""
        return None if self.first_token is None else self.first_token - self.arrived

    @property
    def seconds_per_token(self) -> float | None:
        """Mean time of a token at the engine."""
        return self.inference_seconds / self.answer_tokens if self.answer_tokens else None


def request_id(headers: Headers) -> str:
    """The client's own x-request-id where it is harmless, else a new one."""
    given = headers.get("x-request-id", "")
    return given if KNOWN_ID.fullmatch(given) else uuid.uuid4().hex
