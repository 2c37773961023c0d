"""The ASGI application: both dialects at one desk, every refusal in the words of the dialect that asked."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from easyllm.serve import page_routes
from easyllm.serve.adapters import routes as admin_routes
from easyllm.serve.adapters.settings import AdapterSettings
from easyllm.serve.contract import EngineFailed
from easyllm.serve.desk import Desk
from easyllm.serve.door.guard import AccountKeeper, Guard
from easyllm.serve.door.metrics import CONTENT_TYPE
from easyllm.serve.openai import routes as openai_routes
from easyllm.serve.openapi import document_routes
from easyllm.serve.refusals import Refused, openai_response, tgi_failure, tgi_response
from easyllm.serve.sse import ClientGone
from easyllm.serve.tgi import invocations
from easyllm.serve.tgi import routes as tgi_routes

CLIENT_CLOSED_REQUEST = 499


def build_app(desk: Desk, adapters: AdapterSettings | None = None) -> Starlette:
    """An application in front of ``desk``; the model may come later."""
    admin = admin_routes.routes(desk, adapters) if adapters and adapters.admin else []
    routes = [
        *openai_routes.routes(desk), *admin, *tgi_routes.routes(desk), *invocations.routes(desk),
        metrics_route(desk), *document_routes(),
    ]  # fmt: skip
    return Starlette(
        routes=[*routes, *page_routes.routes()],
        middleware=middleware(desk, frozenset(route.path for route in routes)),
        exception_handlers={
            Refused: on_refused, HTTPException: on_http, EngineFailed: on_failed, ClientGone: on_gone,
            ClientDisconnect: on_gone, Exception: on_broken,
        },
    )  # fmt: skip


def middleware(desk: Desk, routes: frozenset[str]) -> list[Middleware]:
    """What a request passes on its way in, in this order."""
    found = [Middleware(AccountKeeper, desk=desk, routes=routes)]
    if desk.access.cors_origins:
        # Before the door: a browser asks beforehand, without a key, whether it may ask.
        found.append(
            Middleware(
                CORSMiddleware, allow_origins=desk.access.cors_origins, allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
                expose_headers=["X-Request-Id", "Retry-After"],
            )
        )  # fmt: skip
    return [*found, Middleware(Guard, desk=desk, tell=tell, is_open=is_open)]


def is_open(method: str, path: str) -> bool:
    """Whether a request needs no key: balancers that look after us have none, nor a browser before it is typed in."""
    return path in ("/health", "/ping") or page_routes.is_open(method, path)


def metrics_route(desk: Desk) -> Route:
    """What Prometheus asks for. Its answer is no JSON, so the document says nothing of its shape."""

    async def metrics(request: Request) -> Response:
        """Counters and durations in the text format of Prometheus."""
        return Response(desk.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return Route("/metrics", metrics, methods=["GET"])


def tell(request: Request, refused: Refused) -> Response:
    return openai_response(refused) if request.url.path.startswith("/v1") else tgi_response(refused)


async def on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return tell(request, error)


async def on_http(request: Request, error: Exception) -> Response:
    """Starlette's own: a path or a method that is not there."""
    assert isinstance(error, HTTPException)
    return tell(request, Refused(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))


async def on_failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineFailed)
    if request.url.path.startswith("/v1"):
        return openai_response(Refused(error.status, str(error)))
    return tgi_response(tgi_failure(error.status, str(error)))


async def on_broken(request: Request, error: Exception) -> Response:
    """A defect of ours; its traceback goes to stderr, and the client gets the shape that he reads."""
    answer = tell(request, Refused(500, f"{type(error).__name__} in the server; its log says more"))
    account = request.scope.get("state", {}).get("account")
    if account:
        answer.headers["x-request-id"] = account.id
    return answer


async def on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody reads it
