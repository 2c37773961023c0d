"""The ASGI application: both dialects at one desk, every refusal in the words of the dialect that asked."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from easyllm.serve import admin_routes, openai_routes, tgi_routes
from easyllm.serve.adapter_settings import AdapterSettings
from easyllm.serve.contract import EngineFailed
from easyllm.serve.desk import Desk
from easyllm.serve.refusals import Refused, openai_response, tgi_response
from easyllm.serve.sse import ClientGone

CLIENT_CLOSED_REQUEST = 499


def build_app(desk: Desk, adapters: AdapterSettings | None = None) -> Starlette:
    """An application in front of ``desk``; the model may come later."""
    admin = admin_routes.routes(desk, adapters) if adapters and adapters.admin else []
    return Starlette(
        routes=[*openai_routes.routes(desk), *admin, *tgi_routes.routes(desk)],
        exception_handlers={
            Refused: on_refused, HTTPException: on_http, EngineFailed: on_failed, ClientGone: on_gone,
        },
    )  # fmt: skip


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
    return tell(request, Refused(error.status, str(error)))


async def on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody reads it
