"""The chat page at /chat: static files, which know nothing of the model and may be seen without a key."""

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from easyllm.core.pages import page_files, page_names, sealing_headers
from easyllm.serve.refusals import invalid

PAGE = Path(__file__).with_name("page")
ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
"""Scheme, host and port, in characters that cannot end a policy and begin another. server.js has the same pattern.

A policy has no place for ``_`` in a host (CSP 3, host-char): Chromium ignores such a source, and every request fails.
"""

OPEN_PATHS = frozenset({"/", "/chat", *(f"/chat/page/{name}" for name in page_names(PAGE))})
"""What a browser must GET before it can ask its user for a key. They hold nothing but easyllm's own files."""


def is_open(method: str, path: str) -> bool:
    """Whether a request needs no key. POST / is TGI's, so the method counts."""
    return method in ("GET", "HEAD") and path in OPEN_PATHS


def routes() -> list[BaseRoute]:
    """The page, its files, and the way to it from /."""
    return [
        Route("/", to_page, methods=["GET"], include_in_schema=False),
        Route("/chat", page, methods=["GET"], include_in_schema=False),
        Mount("/chat/page", page_files(PAGE)),
    ]


async def to_page(request: Request) -> Response:
    return RedirectResponse("chat", headers={"Cache-Control": "no-store"})


async def page(request: Request) -> Response:
    """The page. It may talk to this server, and to the one other origin that the query's ``other`` names."""
    other = request.query_params.get("other")
    if other is not None and not ORIGIN.fullmatch(other):
        raise invalid("`other` must be scheme, host and port of a server, such as http://127.0.0.1:8081", "other")
    headers = sealing_headers(*([other] if other else ()))
    return FileResponse(PAGE / "index.html", headers={**headers, "Cache-Control": "no-cache"})
