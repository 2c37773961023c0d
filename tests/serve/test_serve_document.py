"""The API's document says what the server does: every route, every field, every answer."""

import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import TypeAdapter
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from easyllm.serve.openai.shapes import ChatChunk, ChatCompletion, Completion, OpenAIError
from easyllm.serve.tgi.shapes import Generated, TokenEvent

CHECKS = [
    not_a_server_error, content_type_conformance, negative_data_rejection, response_schema_conformance,
    status_code_conformance,
]  # fmt: skip
EXAMPLES = 12
"""Of requests a route, made by schemathesis from the document alone: good ones, and ones that break it."""


@pytest.fixture(scope="module")
def document(served: Any) -> Any:
    return httpx.get(f"{served.url}/openapi.json", trust_env=False).json()


def test_every_route_is_in_the_document_and_both_addresses_have_it(served: Any, document: Any) -> None:
    from easyllm.serve.app import build_app

    listed = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    told = [route for route in build_app(served.desk).routes if getattr(route, "include_in_schema", False)]
    routes = {(route.path_format, method) for route in told for method in route.methods}
    assert listed == {(path, method) for path, method in routes if method != "HEAD"}
    assert httpx.get(f"{served.url}/api-doc/openapi.json", trust_env=False).json() == document
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], path
            refusals = set(operation["responses"]) - {"200"}
            assert refusals >= ({"429", "503"} if method == "post" else {"503"}), path
            assert (path in ("/health", "/ping")) != ({"401", "403", "421"} <= refusals), path


@pytest.fixture(scope="module")
def operations(document: Any, served: Any) -> dict[str, Any]:
    """Each operation of the document by its method and path, as schemathesis reads it."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.base_url = served.url
    schema.config.generation.update(modes=list(schemathesis.GenerationMode))
    found = [operation.ok() for operation in schema.get_all_operations()]
    return {f"{operation.method.upper()} {operation.path}": operation for operation in found}


PATHS = (
    "GET /v1/models", "GET /v1/models/{name}", "POST /v1/chat/completions", "POST /v1/completions", "GET /info",
    "GET /health", "GET /ping", "POST /", "POST /generate", "POST /generate_stream", "POST /tokenize",
    "POST /chat_tokenize", "POST /invocations", "GET /metrics", "GET /openapi.json", "GET /api-doc/openapi.json",
)  # fmt: skip


def test_every_operation_is_tried(operations: dict[str, Any]) -> None:
    assert set(PATHS) == set(operations)


@pytest.mark.parametrize("name", PATHS)
def test_whatever_the_document_allows_or_forbids_is_answered_as_it_says(operations: dict[str, Any], name: str) -> None:
    @given(case=operations[name].as_strategy())
    @settings(
        max_examples=EXAMPLES if name.startswith("POST") else 3, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    def ask(case: Any) -> None:
        short(case.body)
        case.call_and_validate(checks=CHECKS, timeout=60)

    ask()


def short(body: Any) -> None:
    """Few tokens, for the time's sake, where the request says nothing of it."""
    if isinstance(body, dict):
        if isinstance(body.get("parameters"), dict):
            body["parameters"].setdefault("max_new_tokens", 3)
        elif "messages" in body or "prompt" in body:
            body.setdefault("max_tokens", 3)


STREAMS: list[tuple[str, Any, Any]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "n": 2}, ChatChunk),
    ("/v1/completions", {"prompt": "a", "logprobs": 2, "echo": True, "return_token_ids": True}, Completion),
    ("/generate_stream", {"inputs": "a", "parameters": {"details": True, "top_n_tokens": 2}}, TokenEvent),
]


@pytest.mark.parametrize(("path", "body", "kind"), STREAMS)
def test_the_events_of_a_stream_are_as_documented(served: Any, path: str, body: Any, kind: Any) -> None:
    limit = {"parameters": body["parameters"] | {"max_new_tokens": 5}} if "inputs" in body else {"max_tokens": 5}
    answer = httpx.post(f"{served.url}{path}", json=body | limit | {"stream": True}, timeout=60, trust_env=False)
    lines = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert len(lines) >= 5
    for line in lines:
        TypeAdapter(kind).validate_python(json.loads(line), strict=True)


WHOLES: list[tuple[str, Any, Any]] = [
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "top_logprobs": 2, "n": 2}, ChatCompletion,
    ),
    ("/v1/completions", {"prompt": "a", "logprobs": 2, "echo": True, "return_token_ids": True}, Completion),
    (
        "/generate",
        {"inputs": "a", "parameters": {"top_n_tokens": 2, "decoder_input_details": True, "best_of": 2, "top_k": 9}},
        Generated,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "kind"), WHOLES)
def test_a_whole_answer_with_all_its_details_is_as_documented(served: Any, path: str, body: Any, kind: Any) -> None:
    answer = httpx.post(f"{served.url}{path}", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    TypeAdapter(kind).validate_python(answer.json(), strict=True)


def test_an_error_is_as_documented(served: Any) -> None:
    for path in ("/v1/nothing", "/v1/models/nothing"):
        TypeAdapter(OpenAIError).validate_python(httpx.get(f"{served.url}{path}", trust_env=False).json())
