"""Who may talk to the review page: this machine's user, who knows the token, and no other page of his browser."""

import secrets
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easyllm.core.messages import say
from easyllm.core.pages import sealing_headers

LOOPBACK = ("127.0.0.1", "localhost")

HEADERS = {**sealing_headers(), "Cache-Control": "no-store"}
"""Whatever a row says, nothing is sent anywhere, and nothing of it stays in the browser."""


class Guard:
    """Lets a request through whose Host is loopback, that knows the token, and, to change something, is the page's.

    The host is looked at because a foreign name may be made to mean 127.0.0.1 (DNS rebinding). Its port is not: a
    reviewer may come by an SSH tunnel from another one.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token
        self._cookie = f"easyllm_review_{secrets.token_hex(4)}"  # cookies know no ports: two pages, two names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if reason := self._refusal(scope["method"], headers, given):
            await PlainTextResponse(say(reason), 403, HEADERS)(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(raw=message["headers"])
                found.update(HEADERS)
                if given:
                    found.append("Set-Cookie", f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        await self._app(scope, receive, sealed)

    def _refusal(self, method: str, headers: Headers, given: str) -> str:
        """The name of the text that says why not, or ""."""
        host = headers.get("host", "")
        if host.partition(":")[0] not in LOOPBACK:
            return "review_wrong_host"
        known = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if not any(self._is_token(text) for text in (given, known, bearer)):
            return "review_wrong_token"
        if method not in ("GET", "HEAD") and headers.get("origin") != f"http://{host}":
            return "review_wrong_origin"
        return ""

    def _is_token(self, text: Any) -> bool:
        return secrets.compare_digest(text.encode(), self._token.encode())
