"""Every field that the API documents: honoured, and seen to be, or refused by its name. Nothing is read and ignored."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from easyllm.serve.openai.bodies import ChatBody, CompletionBody
from easyllm.serve.tgi.bodies import TgiBody, TgiParameters

Body = dict[str, Any]
Effect = Callable[[Any, Any], Any]
CHAT: Body = {"messages": [{"role": "user", "content": "灯塔"}], "max_tokens": 30, "temperature": 0}
COMPLETION: Body = {"prompt": "the sea", "max_tokens": 30, "temperature": 0}
ROOM: Body = {"max_tokens": 120}
WARM: Body = {"temperature": 1.9, "seed": 4}
SCHEMA = {
    "type": "object", "properties": {"sky": {"enum": ["blue", "grey"]}}, "required": ["sky"],
    "additionalProperties": False,
}  # fmt: skip


def post(served: Any, path: str, body: Body) -> httpx.Response:
    return httpx.post(served.url + path, json=body, timeout=60, trust_env=False)


def said(answer: Any) -> str:
    """The text of the first choice, or of an answer of text-generation-inference."""
    if "choices" not in answer:
        return str(answer["generated_text"])
    choice = answer["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def differs(plain: Any, changed: Any) -> bool:
    return said(plain) != said(changed)


def same(plain: Any, changed: Any) -> bool:
    return said(plain) == said(changed)


def tokens(answer: Any) -> int:
    return int(answer["usage"]["completion_tokens"])


SHARED: dict[str, tuple[Body, Effect]] = {
    "model": ({"model": "tgi"}, lambda _, changed: changed["model"] == "tiny-chat"),
    "n": ({"n": 2}, lambda _, changed: [choice["index"] for choice in changed["choices"]] == [0, 1]),
    "max_tokens": ({"max_tokens": 3}, lambda _, changed: tokens(changed) == 3),
    "temperature": ({"temperature": 1.9}, differs),
    "top_p": ({**WARM, "top_p": 1e-6}, same),
    "top_k": ({**WARM, "top_k": 1}, same),
    "min_p": ({**WARM, "min_p": 1.0}, same),
    "seed": (WARM, differs),
    "stop": ({"stop": ["\ufffd", " "]}, lambda plain, changed: len(said(changed)) < len(said(plain))),
    "frequency_penalty": ({"frequency_penalty": 2.0}, differs),
    "presence_penalty": ({"presence_penalty": 2.0}, differs),
    "repetition_penalty": ({"repetition_penalty": 50.0}, differs),
    "logit_bias": ({"logit_bias": {"70": 100}, "max_tokens": 4}, lambda _, changed: len(set(said(changed))) == 1),
    "user": ({"user": "me"}, same),
}  # fmt: skip
CHAT_EFFECTS = SHARED | {
    "messages": ({"messages": [{"role": "user", "content": "the ship"}]}, differs),
    "max_completion_tokens": (
        {"max_tokens": None, "max_completion_tokens": 3}, lambda _, changed: tokens(changed) == 3,
    ),
    "response_format": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "sky", "schema": SCHEMA}}, **ROOM},
        lambda _, changed: json.loads(said(changed))["sky"] in ("blue", "grey"),
    ),
    "logprobs": ({"logprobs": True}, lambda _, changed: changed["choices"][0]["logprobs"]["content"][0]["logprob"] < 0),
    "top_logprobs": (
        {"logprobs": True, "top_logprobs": 3},
        lambda _, changed: len(changed["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3,
    ),
    "tool_choice": ({"tools": [{"type": "function", "function": {"name": "look"}}], "tool_choice": "none"}, same),
    "parallel_tool_calls": ({"parallel_tool_calls": True}, same),
    "store": ({"store": False}, same),
    "modalities": ({"modalities": ["text"]}, same),
}  # fmt: skip
COMPLETION_EFFECTS = SHARED | {
    "prompt": ({"prompt": "the ship"}, differs),
    "echo": ({"echo": True}, lambda plain, changed: said(changed) == "the sea" + said(plain)),
    "logprobs": (
        {"logprobs": 2}, lambda _, changed: 2 <= len(changed["choices"][0]["logprobs"]["top_logprobs"][0]) <= 3,
    ),
    "prompt_logprobs": (
        {"prompt_logprobs": 1}, lambda _, changed: len(changed["choices"][0]["prompt_logprobs"]) > 1,
    ),
    "return_tokens_as_token_ids": (
        {"logprobs": 1, "return_tokens_as_token_ids": True},
        lambda _, changed: changed["choices"][0]["logprobs"]["tokens"][0].startswith("token_id:"),
    ),
    "structured_outputs": (
        {"structured_outputs": {"regex": "(blue|grey)"}}, lambda _, changed: said(changed) in ("blue", "grey"),
    ),
    "best_of": ({**WARM, "best_of": 3}, lambda _, changed: len(changed["choices"]) == 1 and tokens(changed) > 30),
    "return_token_ids": ({"return_token_ids": True}, lambda _, changed: len(changed["choices"][0]["token_ids"]) == 30),
    "ignore_eos": ({"ignore_eos": False}, same),
}  # fmt: skip
ONLY_STREAMED = {"stream", "stream_options"}
"""Their own tests are in test_serve_openai.py."""
ONLY_REFUSED = {"tools", "tool_prompt", "suffix", "stop_token_ids"}
"""Here: this model's template knows no tools, and its end tokens are its own. Honoured in other tests."""


def test_no_field_is_forgotten_here() -> None:
    assert set(CHAT_EFFECTS) | ONLY_STREAMED | ONLY_REFUSED >= set(ChatBody.model_fields)
    assert set(COMPLETION_EFFECTS) | ONLY_STREAMED | ONLY_REFUSED >= set(CompletionBody.model_fields)
    assert set(CHAT_REFUSED) == set(ChatBody.model_fields)
    assert set(COMPLETION_REFUSED) == set(CompletionBody.model_fields)
    assert set(TGI_EFFECTS) | {"adapter_id", "watermark"} >= set(TgiParameters.model_fields)
    assert set(TGI_REFUSED) == set(TgiParameters.model_fields)
    assert set(TgiBody.model_fields) == {"inputs", "parameters", "stream"}


@pytest.fixture(scope="module")
def plain(served: Any) -> dict[str, Any]:
    """The greedy answers that the others are held against."""
    return {
        path: post(served, path, body).json()
        for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION), ("/generate", TGI))
    }


@pytest.mark.parametrize("field", CHAT_EFFECTS)
def test_a_field_of_a_chat_does_what_it_says(served: Any, plain: Any, field: str) -> None:
    change, effect = CHAT_EFFECTS[field]
    answer = post(served, "/v1/chat/completions", CHAT | change)
    assert answer.status_code == 200, answer.text
    assert effect(plain["/v1/chat/completions"], answer.json()), answer.text


@pytest.mark.parametrize("field", COMPLETION_EFFECTS)
def test_a_field_of_a_completion_does_what_it_says(served: Any, plain: Any, field: str) -> None:
    change, effect = COMPLETION_EFFECTS[field]
    answer = post(served, "/v1/completions", COMPLETION | change)
    assert answer.status_code == 200, answer.text
    assert effect(plain["/v1/completions"], answer.json()), answer.text


SHARED_REFUSED: dict[str, Any] = {
    "model": 5, "stream": "yes", "stream_options": {"include_usage": True}, "n": 4, "max_tokens": 0,
    "temperature": 3, "top_p": 0, "top_k": -1, "min_p": 2, "seed": "x", "stop": ["a"] * 5, "frequency_penalty": -3,
    "presence_penalty": 2.5, "repetition_penalty": 0, "logit_bias": {"400000": 1}, "user": 5,
}  # fmt: skip
CHAT_REFUSED = SHARED_REFUSED | {
    "messages": [], "max_completion_tokens": 1.5, "logprobs": 1, "top_logprobs": 3, "store": True,
    "response_format": {"type": "xml"}, "tools": [{"type": "function", "function": {"name": "look"}}],
    "tool_choice": "any", "parallel_tool_calls": False, "tool_prompt": "x", "modalities": ["audio"],
}  # fmt: skip
COMPLETION_REFUSED = SHARED_REFUSED | {
    "prompt": [400000], "echo": 1, "logprobs": 21, "prompt_logprobs": 21, "return_tokens_as_token_ids": True,
    "structured_outputs": {"regex": "a", "json_object": True}, "suffix": "x", "best_of": 4, "return_token_ids": 1,
    "ignore_eos": True, "stop_token_ids": [5],
}  # fmt: skip


def require_refused(answer: httpx.Response, status: int, field: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert field in (error["message"] if isinstance(error, dict) else error)
    if isinstance(error, dict):
        assert error["type"] == "invalid_request_error"
        assert field in error["param"]


@pytest.mark.parametrize("field", CHAT_REFUSED)
def test_what_a_chat_cannot_have_is_refused_by_name(served: Any, field: str) -> None:
    name = "answers at once" if field == "n" else field
    answer = post(served, "/v1/chat/completions", CHAT | {field: CHAT_REFUSED[field]})
    require_refused(answer, 400, name) if name == field else None
    assert answer.status_code == 400
    assert name in answer.json()["error"]["message"]


@pytest.mark.parametrize("field", COMPLETION_REFUSED)
def test_what_a_completion_cannot_have_is_refused_by_name(served: Any, field: str) -> None:
    answer = post(served, "/v1/completions", COMPLETION | {field: COMPLETION_REFUSED[field]})
    assert answer.status_code == 400, answer.text
    assert ("answers at once" if field in ("n", "best_of") else field) in answer.json()["error"]["message"]


TGI: Body = {"inputs": "the sea", "parameters": {"max_new_tokens": 30, "details": True}}
TGI_WARM: Body = {"temperature": 1.9, "seed": 4}
TGI_EFFECTS: dict[str, tuple[Body, Effect]] = {
    "do_sample": ({"do_sample": True, "seed": 3}, differs),
    "max_new_tokens": ({"max_new_tokens": 3}, lambda _, changed: changed["details"]["generated_tokens"] == 3),
    "temperature": (TGI_WARM, differs),
    "temperature, hardly any": ({"temperature": 1e-300}, same),
    "top_p": ({**TGI_WARM, "top_p": 1e-6}, same),
    "top_k": ({**TGI_WARM, "top_k": 1}, same),
    "typical_p": ({**TGI_WARM, "temperature": 1.0, "typical_p": 0.2}, differs),
    "repetition_penalty": ({"repetition_penalty": 50.0}, differs),
    "frequency_penalty": ({"frequency_penalty": 2.0}, differs),
    "seed": ({**TGI_WARM}, lambda _, changed: changed["details"]["seed"] == 4),
    "stop": ({"stop": [" ", "\ufffd"]}, lambda _, changed: changed["details"]["finish_reason"] == "stop_sequence"),
    "truncate": ({"truncate": 1}, differs),
    "details": ({"details": False}, lambda _, changed: "details" not in changed),
    "decoder_input_details": (
        {"decoder_input_details": True}, lambda _, changed: "".join(t["text"] for t in prefill(changed)) == "the sea",
    ),
    "top_n_tokens": ({"top_n_tokens": 2}, lambda _, changed: {len(top) for top in tops(changed)} == {2}),
    "best_of": (
        {"do_sample": True, "best_of": 2}, lambda _, changed: len(changed["details"]["best_of_sequences"]) == 1,
    ),
    "return_full_text": ({"return_full_text": True}, lambda plain, changed: said(changed) == "the sea" + said(plain)),
    "grammar": (
        {"grammar": {"type": "regex", "value": "(blue|grey)"}}, lambda _, changed: said(changed) in ("blue", "grey"),
    ),
}  # fmt: skip


def prefill(answer: Any) -> Any:
    return answer["details"]["prefill"]


def tops(answer: Any) -> Any:
    return answer["details"]["top_tokens"]


@pytest.mark.parametrize("field", TGI_EFFECTS)
def test_a_parameter_of_text_generation_inference_does_what_it_says(served: Any, plain: Any, field: str) -> None:
    change, effect = TGI_EFFECTS[field]
    answer = post(served, "/generate", TGI | {"parameters": TGI["parameters"] | change})
    assert answer.status_code == 200, answer.text
    assert effect(plain["/generate"], answer.json()), answer.text


TGI_REFUSED: dict[str, tuple[Any, str]] = {
    "do_sample": ("yes", "`parameters.do_sample` cannot be 'yes'"),
    "max_new_tokens": (0, "`max_new_tokens` must be strictly positive"),
    "temperature": (0, "`temperature` must be strictly positive"),
    "top_p": (1.0, "`top_p` must be > 0.0 and < 1.0"),
    "top_k": (0, "`top_k` must be strictly positive"),
    "typical_p": (1.0, "`typical_p` must be > 0.0 and < 1.0"),
    "repetition_penalty": (0.0, "`repetition_penalty` must be strictly positive"),
    "frequency_penalty": (2.5, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    "seed": (-1, "`parameters.seed` cannot be -1"),
    "stop": (["a"] * 5, "`stop` supports up to 4 stop sequences. Given: 5"),
    "truncate": (151, "`truncate` must be strictly positive and less than 150. Given: 151"),
    "details": ("x", "`parameters.details` cannot be 'x'"),
    "decoder_input_details": (1, "`parameters.decoder_input_details` cannot be 1"),
    "top_n_tokens": (6, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    "best_of": (3, "`best_of` must be > 0 and <= 2. Given: 3"),
    "return_full_text": ("x", "`parameters.return_full_text` cannot be 'x'"),
    "grammar": ({"type": "json", "value": "{"}, "grammar is not valid: "),
    "adapter_id": ("x", "`adapter_id`: there is no adapter `x`"),
    "watermark": (True, "`parameters.watermark` cannot be True"),
}


@pytest.mark.parametrize("field", TGI_REFUSED)
def test_what_text_generation_inference_refuses_is_refused_in_its_words(served: Any, field: str) -> None:
    value, text = TGI_REFUSED[field]
    answer = post(served, "/generate", {"inputs": "a", "parameters": {field: value}})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")
    assert answer.json()["error"].startswith(f"Input validation error: {text}")


PAIRS: list[tuple[str, Body, str]] = [
    ("/generate", {"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ("/generate", {"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ("/generate_stream", {"best_of": 2, "do_sample": True}, "`best_of` != 1 is not supported when streaming tokens"),
    (
        "/generate_stream", {"decoder_input_details": True},
        "`decoder_input_details` == true is not supported when streaming tokens",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("path", "settings", "text"), PAIRS)
def test_settings_that_exclude_each_other_are_told_in_its_words(
    served: Any, path: str, settings: Body, text: str
) -> None:
    answer = post(served, path, {"inputs": "a", "parameters": settings})
    assert answer.status_code == 422
    assert answer.json() == {"error": f"Input validation error: {text}", "error_type": "validation"}
    assert post(served, path, {"inputs": ""}).json()["error"] == "Input validation error: `inputs` cannot be empty"


FORMATS: list[Body] = [
    {"type": "json_object", "value": SCHEMA},
    {"type": "json", "value": SCHEMA},
    {"type": "regex", "value": '\\{"sky": "(blue|grey)"\\}'},
]


@pytest.mark.parametrize("form", FORMATS, ids=[form["type"] for form in FORMATS])
def test_a_chat_takes_text_generation_inferences_formats_too(served: Any, form: Body) -> None:
    answer = post(served, "/v1/chat/completions", CHAT | ROOM | {"response_format": form})
    assert answer.status_code == 200, answer.text
    assert json.loads(said(answer.json()))["sky"] in ("blue", "grey")


NULLS: list[tuple[str, Body, Any]] = [
    ("/v1/chat/completions", {"messages": CHAT["messages"], "max_tokens": 2}, ChatBody),
    ("/v1/completions", {"prompt": "a", "max_tokens": 2}, CompletionBody),
]


@pytest.mark.parametrize(("path", "body", "kind"), NULLS)
def test_an_explicit_null_is_the_same_as_nothing(served: Any, path: str, body: Body, kind: Any) -> None:
    answer = post(served, path, dict.fromkeys(kind.model_fields) | body)
    assert answer.status_code == 200, answer.text
    assert tokens(answer.json()) <= 2


def test_a_field_that_nobody_knows_is_refused_by_name(served: Any) -> None:
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION), ("/generate", TGI)):
        answer = post(served, path, body | {"mirostat": 1})
        assert answer.status_code in (400, 422)
        assert "`mirostat` is not supported by this server" in answer.text
