"""Server-sent events that stop the moment the client is gone."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
LINE_ENDS = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"})
"""Characters that some clients (httpx's iter_lines, and all that read by it) take for the end of an event's line. JSON
may have them as they are; it escapes the other ones by itself."""


class ClientGone(Exception):
    """Nobody is left to answer."""


def event(data: Any) -> bytes:
    """One event; a string goes as it is, anything else as JSON."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False).translate(LINE_ENDS)
    return f"data: {text}\n\n".encode()


async def data_of(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    """What stands after ``data:`` in each event that another server sends.

    Lines end with a line feed alone: httpx's own ``aiter_lines`` would cut a text that has one of LINE_ENDS in it.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").decode().strip()
    if rest.startswith(b"data:"):
        yield rest.removeprefix(b"data:").decode().strip()


class EventStream(Response):
    """Sends what ``events`` yields, and closes it when the client disconnects, so that the engine stops too.

    Starlette's StreamingResponse notices a lost client only at the next send; a slow model may be long.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        done: Callable[[], Awaitable[None]],
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"} | (headers or {}))
        del self.headers["content-length"]
        self._events = events
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with suppress(ClientGone):
                await while_connected(self._send_all(send), receive)
        finally:
            await self._events.aclose()
            await self._done()

    async def _send_all(self, send: Send) -> None:
        async for chunk in self._events:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of ``work``; when the client disconnects first, ``work`` is cancelled and ClientGone raised.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for other in (task, watch):
            if not other.done():
                other.cancel()
                with suppress(asyncio.CancelledError):
                    await other


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def body_of(request: Request, most_bytes: int) -> bytes | None:
    """The request's body, or None where it is longer than ``most_bytes``."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > most_bytes:
            return None
    return bytes(found)
