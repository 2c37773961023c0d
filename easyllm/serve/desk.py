"""The front desk both dialects share: readiness, admission, limits, and prompts as token ids."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from easyllm.serve.bodies import Body, read
from easyllm.serve.contract import Ask, Loaded, Piece, Scored, Whole
from easyllm.serve.limits import Limits
from easyllm.serve.refusals import Refused, invalid
from easyllm.serve.several import Numbered, together, whole_of
from easyllm.serve.sse import EventStream, body_of, while_connected

MOST_BYTES = 2_000_000
B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class About:
    """What the server says of itself and its model."""

    name: str
    digest: str | None
    limits: Limits


class Desk:
    """Lets requests in, at most ``limits.concurrent_requests`` at a time, once the model is loaded."""

    def __init__(self, about: About) -> None:
        self.about = about
        self.loaded: Loaded | None = None
        self.running = 0
        """Requests being answered now."""

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

    def prompt_of_text(self, text: str, keep_last: int | None = None) -> list[int]:
        ids: list[int] = self.model.voice.tokenizer.encode(text)
        return ids[-keep_last:] if keep_last else ids

    def prompt_of_ids(self, ids: list[int]) -> list[int]:
        """The ids as they are; one that the vocabulary lacks would break the engine for everybody."""
        known = len(self.model.voice.tokenizer)
        if max(ids) >= known:
            raise invalid(f"`prompt` has the token id {max(ids)}; the vocabulary ends at {known - 1}", "prompt")
        return ids

    def room(self, ids: list[int], asked: int | None, default: int | None) -> int:
        """New tokens for a prompt: what was ``asked``, else ``default``, else all that fit."""
        limits, code = self.about.limits, "context_length_exceeded"
        if not ids:
            raise invalid("`inputs` must have at least one token")
        if len(ids) > limits.input_tokens:
            raise invalid(
                f"`inputs` must have less than {limits.input_tokens + 1} tokens. Given: {len(ids)}", code=code
            )
        left = limits.total_tokens - len(ids)
        if asked is not None and asked > left:
            raise invalid(
                f"`inputs` tokens + `max_new_tokens` must be <= {limits.total_tokens}. "
                f"Given: {len(ids)} `inputs` tokens and {asked} `max_new_tokens`", code=code,
            )  # fmt: skip
        return asked or min(left, default or left)

    def enter(self) -> None:
        """Take a place at the engine, or 429: clients know how to come back, a queue only hides the load."""
        if self.running >= self.about.limits.concurrent_requests:
            raise Refused(429, "Model is overloaded")
        self.running += 1

    def leave(self) -> None:
        """Give the place of ``enter`` back."""
        self.running -= 1

    @asynccontextmanager
    async def places(self, count: int) -> AsyncIterator[None]:
        """So many places for as long as the block lasts, all of them or none: half of an answer helps nobody.

        Raises Refused with 429 where they are not free, and with 422 where they never can be.
        """
        most = self.about.limits.concurrent_requests
        if count > most:
            raise invalid(f"{count} answers at once are asked for; this server makes {most} at a time", "n")
        taken = 0
        try:
            while taken < count:
                self.enter()
                taken += 1
            yield
        finally:
            for _ in range(taken):
                self.leave()

    async def wholes(self, asks: Sequence[Ask], request: Request, begun: Callable[[], None]) -> list[Whole]:
        """The answers at once, given up when the client goes away; ``begun`` is called when their places are there."""
        async with self.places(len(asks)):
            begun()
            return await while_connected(self._all(asks), request.receive)

    async def _all(self, asks: Sequence[Ask]) -> list[Whole]:
        said: list[list[Piece]] = [[] for _ in asks]
        async with aclosing(together([self.model.voice.answer(ask) for ask in asks])) as pieces:
            async for number, piece in pieces:
                said[number].append(piece)
        return [whole_of(pieces) for pieces in said]

    async def score(self, ids: list[int], likeliest: int, adapter: str | None = None) -> list[Scored]:
        """Log-probabilities of given tokens, in a place of its own at the model."""
        self.enter()
        try:
            return await self.model.voice.engine.score(ids, likeliest, adapter)
        finally:
            self.leave()

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
        room = AsyncExitStack()
        await room.enter_async_context(self.places(len(asks)))
        pieces = together([self.model.voice.answer(ask) for ask in asks])

        async def done() -> None:
            await pieces.aclose()
            await room.aclose()

        async def begin() -> Numbered:
            return await anext(pieces)

        try:
            first = await while_connected(begin(), request.receive)
        except BaseException:
            await done()
            raise
        return EventStream(say(_going_on(first, pieces)), done, headers)


async def _going_on(first: Numbered, rest: AsyncGenerator[Numbered, None]) -> AsyncGenerator[Numbered, None]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece
