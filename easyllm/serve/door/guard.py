"""What stands before every route: the account of the request, the door, and who may pass it."""

import ipaddress
from collections.abc import Callable
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easyllm.serve.desk import Desk
from easyllm.serve.door.accounts import Account, request_id
from easyllm.serve.door.drain import STOPPING
from easyllm.serve.door.keys import offered_key
from easyllm.serve.refusals import Refused

IsOpen = Callable[[str, str], bool]
"""Whether a method and path need no key."""
Tell = Callable[[Request, Refused], Response]


class AccountKeeper:
    """Opens ``request.state.account``, gives the answer its x-request-id, and at the end counts and logs it."""

    def __init__(self, app: ASGIApp, desk: Desk, routes: frozenset[str]) -> None:
        self._app, self._desk, self._routes = app, desk, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        account = self.open(scope)
        scope.setdefault("state", {})["account"] = account

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                account.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = account.id
            await send(message)

        self._desk.in_flight += 1
        try:
            await self._app(scope, receive, told)
        finally:
            self._desk.in_flight -= 1
            account.ended = perf_counter()
            account.status = account.status or 500  # an exception that nobody answers is made one further out
            self._desk.metrics.end(account)
            self._desk.log.write(account)

    def open(self, scope: Scope) -> Account:
        path: str = scope["path"]
        route = path if path in self._routes else "other"
        client = scope.get("client")
        return Account(request_id(Headers(scope=scope)), scope["method"], route, client[0] if client else "unknown")


class Guard:
    """Refuses whom the settings do not let in, before anything of a request is read but its head.

    * While the server stops: everybody but /metrics, with 503 and Connection: close.
    * Where no key is asked for: a Host that could be a foreign page's, which has its own name point at this machine
      (DNS rebinding); with keys such a page gets nowhere anyway.
    * A browser's page of another origin that is not in ``cors_origins``: without this it could not read the answer,
      but could still have it computed.
    * Where keys are asked for: who has none, on every route that is not open.
    """

    def __init__(self, app: ASGIApp, desk: Desk, tell: Tell, is_open: IsOpen) -> None:
        self._app, self._desk, self._tell, self._is_open = app, desk, tell, is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._require_all(scope)
            except Refused as refused:
                answer = self._tell(Request(scope), refused)
                if refused.status == 401:
                    answer.headers["WWW-Authenticate"] = "Bearer"
                if self._desk.closing:
                    answer.headers["Connection"] = "close"
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _require_all(self, scope: Scope) -> None:
        headers, path, access = Headers(scope=scope), scope["path"], self._desk.access
        if self._desk.closing and path != "/metrics":
            raise Refused(503, STOPPING)
        if self._is_open(scope["method"], path):
            return
        if not self._desk.keys and not is_own_name(headers.get("host", ""), access.host_names):
            raise Refused(
                421, "this server does not answer to the name in the Host header; serve.host_names can allow it"
            )
        origin = headers.get("origin")
        if origin and not is_allowed_origin(origin, headers.get("host", ""), access.cors_origins):
            raise Refused(403, f"pages of {origin[:200]} may not ask this server; serve.cors_origins can allow it")
        if self._desk.keys:
            self._require_key(headers, scope["state"]["account"])

    def _require_key(self, headers: Headers, account: Account) -> None:
        assert self._desk.keys
        offered = offered_key(headers.get("authorization", ""))
        holder = self._desk.keys.holder(offered) if offered else None
        if holder is None:
            told = "the API key is not known here" if offered else "an API key is needed: Authorization: Bearer KEY"
            raise Refused(401, told, code="invalid_api_key")
        account.key = account.caller = holder


def is_own_name(host: str, names: tuple[str, ...]) -> bool:
    """Whether no page of the internet can have this Host: an address, a name without a dot, or one of ``names``."""
    name = host_name(host)
    if name is None:
        return False
    if "." not in name and ":" not in name:
        return bool(name)
    if name in {known.lower() for known in names} or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_allowed_origin(origin: str, host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a page of ``origin`` may ask: our own page, or one that is named.

    Only the hosts are compared for our own: before us may stand what takes https off.
    """
    if "*" in allowed or origin.lower() in allowed:
        return True
    try:
        own = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    return bool(own) and own == host.lower()


def host_name(host: str) -> str | None:
    """The name or address in a Host header, without port and brackets; None where there is none."""
    try:
        found: Any = urlsplit(f"//{host}").hostname
    except ValueError:
        return None
    return str(found) if found else None
