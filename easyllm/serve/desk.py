"""The front desk both dialects share: readiness, admission, limits, and prompts as token ids."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from starlette.requests import Request

from easyllm.core.artifact import Manifest
from easyllm.serve.bodies import Body, read
from easyllm.serve.contract import Ask, EngineFailed, Loaded, Piece, Scored, Whole
from easyllm.serve.door.access import Access
from easyllm.serve.door.accounts import Account
from easyllm.serve.door.admission import Queue
from easyllm.serve.door.drain import STOPPING, Interrupt
from easyllm.serve.door.keys import KeyRing
from easyllm.serve.door.metrics import Metrics
from easyllm.serve.door.ratelimits import RateLimits
from easyllm.serve.door.requestlog import RequestLog
from easyllm.serve.limits import Limits
from easyllm.serve.refusals import Refused, invalid
from easyllm.serve.several import Numbered, together, whole_of
from easyllm.serve.sse import EventStream, body_of, while_connected

MOST_BYTES = 2_000_000
SHORT_CHARACTERS = 10_000
"""A text of so many is made tokens of in some milliseconds."""
B = TypeVar("B", bound=Body)
R = TypeVar("R")


@dataclass(frozen=True)
class About:
    """What the server says of itself and its model."""

    name: str
    digest: str | None
    limits: Limits
    engine: str = "embedded"
    manifest: Manifest | None = None


class Desk:
    """Lets requests in, at most ``limits.concurrent_requests`` at a time, once the model is loaded."""

    def __init__(
        self, about: About, access: Access | None = None, keys: KeyRing | None = None, log: RequestLog | None = None
    ) -> None:
        self.about = about
        self.access = access or Access()
        self.keys = keys
        self.log = log or RequestLog(None)
        self.loaded: Loaded | None = None
        self.started = perf_counter()
        self.queue = Queue(about.limits.concurrent_requests, about.limits.queued_requests)
        self.rates = RateLimits(self.access.requests_per_minute, self.access.tokens_per_minute)
        self.metrics = Metrics(self._live)
        self.in_flight = 0
        """Requests that have come and not been answered to the end, of whatever kind."""
        self.closing = False
        """Whether the server is about to end: new requests are refused."""
        self._interrupt = Interrupt()

    @property
    def running(self) -> int:
        """Requests being answered now."""
        return self.queue.running

    @property
    def model(self) -> Loaded:
        """The loaded model; refused with 503 while it is not there, or while its engine cannot answer."""
        if self.loaded is None:
            raise Refused(503, "the model is still loading")
        trouble = self.loaded.voice.engine.trouble
        if trouble:
            raise Refused(503, trouble)
        return self.loaded

    async def read(self, request: Request, kind: type[B]) -> B:
        return read(await self.text_of(request), kind)

    async def text_of(self, request: Request) -> bytes:
        body = await body_of(request, MOST_BYTES)
        if body is None:
            raise Refused(413, f"the body is longer than {MOST_BYTES:,} bytes")
        return body

    async def beside(self, characters: int, work: Callable[[], R]) -> R:
        """The result of ``work``, off the event loop where the text is so long that others would notice."""
        return work() if characters <= SHORT_CHARACTERS else await asyncio.to_thread(work)

    async def prompt_of_text(self, text: str, keep_last: int | None = None) -> list[int]:
        tokenizer = self.model.voice.tokenizer
        ids: list[int] = await self.beside(len(text), lambda: tokenizer.encode(text))
        return ids[-keep_last:] if keep_last else ids

    def prompt_of_ids(self, ids: list[int]) -> list[int]:
        """The ids as they are; one that the vocabulary lacks would break the engine for everybody."""
        known = len(self.model.voice.tokenizer)
        if max(ids) >= known:
            raise invalid(f"`prompt` has the token id {max(ids)}; the vocabulary ends at {known - 1}", "prompt")
        return ids

    def room(self, ids: list[int], asked: int | None, default: int | None, names: tuple[str, str]) -> int:
        """New tokens for a prompt: what was ``asked``, else ``default``, else all that fit.

        ``names``: what the route calls its prompt and ``asked``.
        """
        limits, code = self.about.limits, "context_length_exceeded"
        prompt, count = names
        if not ids:
            raise invalid(f"`{prompt}` must have at least one token", prompt)
        if len(ids) > limits.input_tokens:
            told = f"`{prompt}` must have less than {limits.input_tokens + 1} tokens. Given: {len(ids)}"
            raise invalid(told, prompt, code)
        left = limits.total_tokens - len(ids)
        if asked is not None and asked > left:
            told = f"`{prompt}` tokens + `{count}` must be <= {limits.total_tokens}. "
            raise invalid(f"{told}Given: {len(ids)} `{prompt}` tokens and {asked} `{count}`", count, code)
        return asked or min(left, default or left)

    def require_places(self, count: int) -> None:
        """Refused where there never can be so many answers at once."""
        most = self.about.limits.concurrent_requests
        if count > most:
            raise invalid(f"{count} answers at once are asked for; this server makes {most} at a time", "n")

    def cut(self) -> None:
        """Time is up: whoever waits is sent away, and answers under way end with an error."""
        self.queue.send_away(Refused(503, STOPPING))
        self._interrupt.cut()

    async def wholes(self, asks: Sequence[Ask], request: Request, begun: Callable[[], None]) -> list[Whole]:
        """The answers at once, given up when the client goes away; ``begun`` is called when their places are there."""
        return await while_connected(self._all(asks, account_of(request), begun), request.receive)

    async def streams(
        self,
        asks: Sequence[Ask],
        say: Callable[[AsyncGenerator[Numbered, None]], AsyncGenerator[bytes, None]],
        request: Request,
        headers: dict[str, str] | None = None,
    ) -> EventStream:
        """The answers as events that ``say`` makes of their pieces, each with its answer's number.

        The first token is awaited here: until it is there, 429 and whatever the engine says against the request
        still come as a status, which clients know how to handle, and not inside a stream that began with 200.
        """
        pieces = self.answers(asks, account_of(request), lambda: None)

        async def begin() -> Numbered:
            return await anext(pieces)

        try:
            first = await while_connected(begin(), request.receive)
        except BaseException:
            await pieces.aclose()
            raise
        return EventStream(say(_going_on(first, pieces)), pieces.aclose, headers)

    async def answers(
        self, asks: Sequence[Ask], account: Account, begun: Callable[[], None]
    ) -> AsyncGenerator[Numbered, None]:
        """The pieces of all answers as they come, once there is a place for each: half of an answer helps nobody.

        Closing the generator stops the engine's work on them. Raises Refused with 429 where the queue is full or the
        caller asks too much, and with 422 where there never can be so many places.
        """
        self.require_places(len(asks))
        prompts = {tuple(ask.ids): ask.ids for ask in asks}.values()
        read = sum(len(ids) for ids in prompts)
        self.queue.require_room(len(asks))  # before the rate is charged: who is sent away has had nothing
        self._admit(account, read, asks[0].max_new_tokens, asks[0].adapter, paid=account.scored_tokens)
        if self.access.log_prompts:
            decode = self.model.voice.tokenizer.decode
            account.words = {"prompts": [decode(ids) for ids in prompts], "answers": ["" for _ in asks]}
        async with self._places(account, len(asks)):
            begun()
            pieces = together([self.model.voice.answer(ask) for ask in asks])
            last: dict[int, float] = {}
            async with aclosing(pieces), aclosing(self._interrupt.through(pieces)) as arriving:
                async for number, piece in arriving:
                    last[number] = self._note_piece(number, piece, account, last.get(number))
                    yield number, piece

    async def score(
        self, ids: list[int], likeliest: int, adapter: str | None = None, request: Request | None = None
    ) -> list[Scored]:
        """Log-probabilities of given tokens, in a place of its own at the model; given up when the client goes away."""
        if request is None:
            async with self.queue.place():
                return await self.model.voice.engine.score(ids, likeliest, adapter)
        account = account_of(request)
        self.queue.require_room()
        self._admit(account, len(ids), 0, adapter)
        account.scored_tokens += len(ids)

        async def scored() -> list[Scored]:
            async with self._places(account, 1):
                return await self.model.voice.engine.score(ids, likeliest, adapter)

        return await while_connected(scored(), request.receive)

    async def _all(self, asks: Sequence[Ask], account: Account, begun: Callable[[], None]) -> list[Whole]:
        said: list[list[Piece]] = [[] for _ in asks]
        async with aclosing(self.answers(asks, account, begun)) as pieces:
            async for number, piece in pieces:
                said[number].append(piece)
        return [whole_of(pieces) for pieces in said]

    def _admit(
        self, account: Account, prompt_tokens: int, max_new_tokens: int, adapter: str | None, paid: int = 0
    ) -> None:
        """Every check has been passed but that of the rate: a request counts once, whatever it asks for.

        ``paid``: prompt tokens that the caller's rate has been charged for already.
        """
        self.rates.admit(account.caller, 0 if account.asked else 1, max(0, prompt_tokens - paid))
        account.asked = account.asked or perf_counter()
        account.model = adapter or self.about.name
        account.prompt_tokens = max(account.prompt_tokens, prompt_tokens)
        account.max_new_tokens = max_new_tokens

    @asynccontextmanager
    async def _places(self, account: Account, count: int) -> AsyncIterator[None]:
        """Places in the queue's order, and in the account how long that took and how it ended."""
        since = perf_counter()
        try:
            async with self.queue.place(count):
                account.queue_seconds += perf_counter() - since
                yield
        except EngineFailed as failure:
            if failure.status >= 500:  # below, the request itself was refused: a grammar, an adapter that is gone
                account.finish = "error"
            raise
        except (asyncio.CancelledError, GeneratorExit):
            account.finish = account.finish or "cancelled"
            raise

    def _note_piece(self, number: int, piece: Piece, account: Account, last: float | None) -> float:
        now = perf_counter()
        account.answer_tokens += 1
        account.first_token = account.first_token or now
        account.finish = piece.finish or account.finish
        if account.words:
            account.words["answers"][number] += piece.text
        self.rates.charge(account.caller, 1)
        self.metrics.token(None if last is None else now - last)
        return now

    def _live(self) -> dict[str, float]:
        """For the metrics."""
        engine = self.loaded.voice.engine if self.loaded else None
        return {
            "waiting": self.queue.waiting,
            "running": self.queue.running,
            "batch": engine.running if engine else 0,
            "batch_tokens": self.queue.running * self.about.limits.total_tokens,
            "ready": float(bool(engine and not engine.trouble and not self.closing)),
            "restarts": engine.restarts if engine else 0,
        }


def account_of(request: Request) -> Account:
    """The request's account; see accounts.py."""
    account: Account = request.state.account
    return account


async def _going_on(first: Numbered, rest: AsyncGenerator[Numbered, None]) -> AsyncGenerator[Numbered, None]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece
