"""The OpenAPI document, made of the routes themselves and of the types of what they take and answer."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from easyllm import __version__
from easyllm.serve.doors import Door
from easyllm.serve.openai.shapes import OpenAIError
from easyllm.serve.tgi.bodies import TgiBody
from easyllm.serve.tgi.shapes import TgiError

REFERENCE = "#/components/schemas/{model}"
AT_ANY_TIME = {
    401: "an API key is missing or wrong",
    403: "a browser's page of another origin asks",
    421: "the Host header names another server",
    503: "the model is loading, or its engine cannot answer",
}
"""Failures of every route that asks for the model."""
OPEN = ("/health", "/ping")
"""Asked by machines that hold no key."""
OF_A_REQUEST = AT_ANY_TIME | {
    413: "the body is too long",
    429: "no place is free; Retry-After says when to come back",
    500: "the server failed",
    502: "the remote engine failed",
}
OPENAI_REFUSALS = OF_A_REQUEST | {
    400: "the request cannot be honoured; the error names the field",
    404: "no such model",
}
TGI_REFUSALS = OF_A_REQUEST | {
    422: "the request cannot be honoured; the error names the field",
    424: "generation failed",
}


def document_routes() -> list[Route]:
    """The document where OpenAPI tools look for it, and where text-generation-inference has it."""
    return [
        Door("GET", "/openapi.json", show_document, dict[str, Any]),
        Door("GET", "/api-doc/openapi.json", show_document, dict[str, Any]),
    ]


async def show_document(request: Request) -> Response:
    """This document."""
    return JSONResponse(document(request.app.routes))


def document(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """What can be asked of an application with these ``routes``."""
    known = [route for route in routes if isinstance(route, Route) and route.include_in_schema]
    schemas, components = described([route for route in known if isinstance(route, Door)])
    paths: dict[str, dict[str, Any]] = {}
    for route in known:
        for method in sorted((route.methods or set()) - {"HEAD"}):
            paths.setdefault(route.path_format, {})[method.lower()] = operation(route, method, schemas)
    return {
        "openapi": "3.2.0",  # the first version that can say what the events of a stream are
        "info": {
            "title": "easyllm",
            "version": __version__,
            "description": "One model in two dialects: OpenAI's below /v1, text-generation-inference's elsewhere. "
            "A field that is not honoured is refused by its name.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "Where keys are set."}},
        },
        "security": [{}, {"key": []}],
    }


Schemas = dict[tuple[int, str], Any]
"""By (the type's id, validation or serialization)."""


def described(doors: Sequence[Door]) -> tuple[Schemas, dict[str, Any]]:
    """(the schema of each type, the definitions they refer to)."""
    inputs: dict[tuple[int, str], Any] = {}
    for mode, found in (
        ("validation", [door.body for door in doors]),
        ("serialization", [OpenAIError, TgiError, *[kind for door in doors for kind in (door.answer, door.events)]]),
    ):
        inputs |= {(id(kind), mode): (id(kind), mode, TypeAdapter(kind)) for kind in found if kind is not None}
    schemas, rest = TypeAdapter.json_schemas(inputs.values(), ref_template=REFERENCE)
    return dict(schemas), rest.get("$defs", {})


def operation(route: Route, method: str, schemas: Schemas) -> dict[str, Any]:
    name = "_".join(part for part in route.path_format.replace("{", "").replace("}", "").split("/") if part) or "root"
    said = inspect.getdoc(route.endpoint) or ""
    found: dict[str, Any] = {
        "operationId": f"{method.lower()}_{name}".replace(".", "_").replace("-", "_"),
        "summary": said.split("\n\n")[0].replace("\n", " "),
        "tags": ["OpenAI" if is_openai(route) else "text-generation-inference"],
        "responses": responses(route, method, schemas),
    }
    if route.param_convertors:
        found["parameters"] = [
            {"name": key, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for key in route.param_convertors
        ]
    if isinstance(route, Door) and route.body is not None:
        schema = schemas[id(route.body), "validation"]
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found


def responses(route: Route, method: str, schemas: Schemas) -> dict[str, Any]:
    """The answer, and every way in which it may be refused."""
    good: dict[str, Any] = {"description": "the answer"}
    if isinstance(route, Door):
        content = {}
        if route.answer is not None:
            content["application/json"] = {"schema": schemas[id(route.answer), "serialization"]}
        if route.events is not None:
            content["text/event-stream"] = {"itemSchema": event_schema(route, schemas)}
        good |= {"content": content} if content else {}
    error = error_schema(route, schemas)
    found = {"200": good}
    for status, why in sorted(refusals(route, method).items()):
        found[str(status)] = {"description": why, "content": {"application/json": {"schema": error}}}
        if status in (429, 503):
            found[str(status)]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return found


def event_schema(route: Door, schemas: Schemas) -> dict[str, Any]:
    """One event: a part of the answer, or what has gone wrong after it began; OpenAI's streams end with a word."""
    part = {"anyOf": [schemas[id(route.events), "serialization"], error_schema(route, schemas)]}
    data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json", "contentSchema": part}
    ends_with_done = is_openai(route) or route.body is not TgiBody
    if ends_with_done:
        data = {"anyOf": [{"const": "[DONE]"}, data]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def error_schema(route: Route, schemas: Schemas) -> Any:
    return schemas[id(OpenAIError if is_openai(route) else TgiError), "serialization"]


def refusals(route: Route, method: str) -> dict[int, str]:
    if route.path in OPEN:
        return {503: AT_ANY_TIME[503]}
    if method == "GET":
        return AT_ANY_TIME | ({404: OPENAI_REFUSALS[404]} if route.param_convertors else {})
    return OPENAI_REFUSALS if is_openai(route) else TGI_REFUSALS


def is_openai(route: Route) -> bool:
    return route.path.startswith("/v1")
