"""A request that is not answered: one kind of exception, told in the words of either API."""

from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
TGI_TYPES = {
    401: "authentication", 403: "permission", 404: "not_found", 405: "validation", 413: "validation", 421: "validation",
    422: "validation", 429: "overloaded", 503: "unhealthy",
}  # fmt: skip
TGI_PREFIXES = {"validation": "Input validation error: ", "generation": "Request failed during generation: "}
RETRY_AFTER_SECONDS = 1


@dataclass
class Refused(Exception):
    """``status`` is the HTTP status of both APIs, but 422 becomes 400 in OpenAI's, which knows no 422."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    kind: str | None = None
    """What text-generation-inference calls this kind of error, where the status does not say it."""
    retry_after: int | None = None
    """Seconds after which asking again makes sense, where that is known."""

    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after or RETRY_AFTER_SECONDS)} if self.status in (429, 503) else {}


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refused:
    """The client asked for what cannot be had."""
    return Refused(422, message, param, code)


def openai_body(refused: Refused) -> dict[str, Any]:
    default = "invalid_request_error" if refused.status < 500 else "server_error"
    kind = OPENAI_TYPES.get(refused.status, default)
    return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}}


def openai_response(refused: Refused) -> JSONResponse:
    status = 400 if refused.status == 422 else refused.status
    return JSONResponse(openai_body(refused), status, refused.headers())


def tgi_body(refused: Refused) -> dict[str, Any]:
    kind = refused.kind or TGI_TYPES.get(refused.status, "generation")
    told = TGI_PREFIXES.get(kind, "") if refused.status in (422, 424) else ""
    return {"error": told + refused.message, "error_type": kind}


def tgi_failure(status: int, message: str) -> Refused:
    """What an engine said, in the statuses of text-generation-inference: a generation that fails is a 424 there."""
    return Refused(424 if status == 500 else status, message)


def tgi_response(refused: Refused) -> JSONResponse:
    return JSONResponse(tgi_body(refused), refused.status, refused.headers())
