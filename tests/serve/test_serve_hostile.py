"""Clients that ask for too much, or for nonsense: refused in their own dialect, and nobody else notices."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from easyllm.core import chat
from easyllm.serve.contract import Grammar
from easyllm.serve.door.access import Access
from easyllm.serve.engines import grammar as grammars
from easyllm.serve.engines.grammar import GrammarRefused, Grammars
from serving_doors import Doored, doored, wait_until

HI = [{"role": "user", "content": "hi"}]
DEEP = '{"a":' * 970 + "1" + "}" * 970


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.fixture(scope="module")
def door(served: Any) -> Iterator[Doored]:
    with doored(served.desk.loaded, queued_requests=4) as found:
        yield found


def total(door: Doored, status: int) -> float:
    """Requests counted with this status."""
    lines = [line for line in door.get("/metrics").text.splitlines() if f'status="{status}"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("easyllm_requests_total"))


SCHEMAS = [
    ({"type": "integer", "multipleOf": 999999937}, "multipleOf"),
    ({"allOf": [{"multipleOf": 999983}, {"multipleOf": 999979}]}, "multipleOf"),
    ({"multipleOf": 1e22}, "multipleOf"),
    ({"maximum": 10**4000}, "number"),
    ({"enum": ["x" * 70_000]}, "65,536"),
    (nested(90), "recursion"),
]


@pytest.mark.parametrize(("schema", "named"), SCHEMAS, ids=[str(schema)[:40] for schema, _ in SCHEMAS])
def test_a_schema_that_would_take_too_long_or_is_none_is_refused_in_both_dialects(
    door: Doored, schema: dict[str, Any], named: str
) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    openai = door.ask("/v1/chat/completions", json={"messages": HI, "max_tokens": 2, "response_format": wanted})
    assert openai.status_code == 400
    assert named in openai.json()["error"]["message"]
    for value in (schema, json.dumps(schema)):
        grammar = {"type": "json", "value": value}
        tgi = door.ask(json={"inputs": "hi", "parameters": {"max_new_tokens": 2, "grammar": grammar}})
        assert tgi.status_code == 422
        assert named in tgi.json()["error"]


@pytest.mark.parametrize(
    "value", ['{"maximum": NaN}', '{"maximum": 1e999}', "[" * 100_000, DEEP, '{"const": "\\ud800"}'],
    ids=["nan", "infinite", "open lists", "deep", "half a letter"],
)  # fmt: skip
def test_a_grammar_that_json_cannot_say_is_refused(door: Doored, value: str) -> None:
    grammar = {"type": "json", "value": value}
    tgi = door.ask(json={"inputs": "hi", "parameters": {"max_new_tokens": 2, "grammar": grammar}})
    assert (tgi.status_code, tgi.json()["error_type"]) == (422, "validation")
    asked = {"prompt": "hi", "max_tokens": 2, "structured_outputs": {"json": value}}
    openai = door.ask("/v1/completions", json=asked)
    assert (openai.status_code, openai.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_call_whose_arguments_are_no_json_is_refused(door: Doored) -> None:
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": "[" * 100_000}}
    answer = door.ask("/v1/chat/completions", json={"messages": [*HI, {"role": "assistant", "tool_calls": [call]}]})
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]["message"]


def test_a_grammar_that_compiles_for_long_holds_up_no_other_and_is_refused_in_time(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Grammars(served.tokenizer, served.engine.model.config.vocab_size, [0])
    released, real = threading.Event(), found._compile

    def compile(grammar: Grammar) -> Any:
        if grammar.text == "slow":
            assert released.wait(60)
        return real(grammar)

    monkeypatch.setattr(found, "_compile", compile)
    monkeypatch.setattr(grammars, "MOST_SECONDS", 1.0)

    async def both() -> list[Any]:
        asks = [found.follower(Grammar("regex", text)) for text in ("slow", "quick")]
        return await asyncio.gather(*asks, return_exceptions=True)

    try:
        slow, quick = asyncio.run(both())
        assert isinstance(slow, GrammarRefused)
        assert "takes more than 1 s" in str(slow)
        assert quick.trouble is None
        working = [thread for thread in threading.enumerate() if thread.name == "compile-grammar"]
        assert working
        assert all(thread.daemon for thread in working)  # the process ends without it
    finally:
        released.set()


def test_compiled_grammars_are_kept_by_their_size(served: Any) -> None:
    found = Grammars(served.tokenizer, served.engine.model.config.vocab_size, [0])
    for number in range(8):
        names = [f"{number}-{place:05d}" for place in range(4_500)]
        found.compile(Grammar("json_schema", json.dumps({"enum": names})))
    assert 0 < sum(len(grammar.text) for grammar in found._kept) <= grammars.MOST_KEPT_CHARACTERS


@pytest.mark.parametrize("field", ["n", "best_of"])
def test_more_answers_than_places_are_refused_before_they_are_counted_out(door: Doored, field: str) -> None:
    asked = {"prompt": "hi", "max_tokens": 2, "seed": 1, field: 10**18}
    answer = door.ask("/v1/completions", json=asked)
    assert answer.status_code == 400
    assert "at a time" in answer.json()["error"]["message"]
    if field == "n":
        answer = door.ask("/v1/chat/completions", json={"messages": HI, "max_tokens": 2, "n": 10**18})
        assert "at a time" in answer.json()["error"]["message"]


def test_more_prompts_than_places_are_refused_before_one_is_scored(
    door: Doored, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[Any] = []
    monkeypatch.setattr(door.desk, "score", lambda *told: scored.append(told))
    answer = door.ask("/v1/completions", json={"prompt": ["hi"] * 50, "max_tokens": 1, "echo": True, "logprobs": 1})
    assert (answer.status_code, scored) == (400, [])


def test_a_long_conversation_is_written_a_few_times_only(door: Doored, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = chat.render_text, []

    def render_text(*told: Any) -> str:
        written.append(threading.current_thread().name)
        return real(*told)

    monkeypatch.setattr(chat, "render_text", render_text)
    tools = [{"role": "tool", "content": "a"}] * 400
    answer = door.ask("/v1/chat/completions", json={"messages": [*HI, *tools], "max_tokens": 2})
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert len(written) <= 3
    assert all(name.startswith("asyncio") for name in written)  # the event loop's own thread has others to serve


def test_what_a_template_leaves_out_is_found_in_any_place(door: Doored) -> None:
    named = [{"role": "user", "content": "a"}, {"role": "user", "content": "b", "name": "Mara"}]
    answer = door.ask("/v1/chat/completions", json={"messages": named, "max_tokens": 2})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages.1"
    assert "`name`" in answer.json()["error"]["message"]


def test_a_long_text_is_read_beside_the_event_loop(door: Doored, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = door.desk.model.voice.tokenizer
    real, readers = tokenizer.encode, []

    def encode(*told: Any, **more: Any) -> Any:
        readers.append(threading.current_thread().name)
        return real(*told, **more)

    monkeypatch.setattr(tokenizer, "encode", encode)
    for text, beside in (("hi", False), ("hi " * 20_000, True)):
        readers.clear()
        door.ask(json={"inputs": text, "parameters": {"max_new_tokens": 1}})
        assert [name.startswith("asyncio") for name in readers] == [beside]


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure_of_ours(
    door: Doored, capfd: pytest.CaptureFixture[str]
) -> None:
    failures, gone = total(door, 500), total(door, 499)
    address = urlsplit(door.url)
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as client:
        client.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{")
        assert wait_until(lambda: door.desk.in_flight == 1)
    assert wait_until(lambda: total(door, 499) == gone + 1)
    assert total(door, 500) == failures
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("path", "shape"), [("/v1/chat/completions", "openai"), ("/generate", "tgi")])
def test_a_defect_of_ours_is_told_in_the_dialect_that_asked(
    door: Doored, monkeypatch: pytest.MonkeyPatch, path: str, shape: str
) -> None:
    def room(*told: Any) -> int:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(door.desk, "room", room)
    answer = door.ask(path, headers={"X-Request-Id": "mine-7"})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert "ZeroDivisionError" in (error["message"] if shape == "openai" else error)
    assert "a secret" not in answer.text
    assert answer.headers["x-request-id"] == "mine-7"


def test_who_is_sent_away_from_a_full_queue_keeps_his_rate(served: Any) -> None:
    with doored(served.desk.loaded, Access(requests_per_minute=2), concurrent_requests=1, queued_requests=0) as door:
        door.desk.queue.running += 1
        told = [door.ask(tokens=1) for _ in range(4)]
        assert {(answer.status_code, answer.json()["error_type"]) for answer in told} == {(429, "overloaded")}
        assert all("overloaded" in answer.json()["error"] for answer in told)
        scoring = {"prompt": "hi", "max_tokens": 1, "echo": True, "logprobs": 1}
        assert "overloaded" in door.ask("/v1/completions", json=scoring).text
        door.desk.queue.running -= 1
        assert [door.ask(tokens=1).status_code for _ in range(3)] == [200, 200, 429]


def test_text_offsets_are_those_of_the_tokens_with_and_without_a_stop(door: Doored) -> None:
    asked = {"prompt": "a🌊𝄞é", "max_tokens": 12, "temperature": 0, "logprobs": 0}
    plain, held, echoed = (
        door.ask("/v1/completions", json=asked | more).json()["choices"][0]
        for more in ({}, {"stop": plain_stop()}, {"echo": True})
    )
    assert held["text"] == plain["text"]
    assert held["logprobs"]["text_offset"] == plain["logprobs"]["text_offset"]
    count = len(plain["logprobs"]["tokens"])
    offsets = echoed["logprobs"]["text_offset"]
    start = len(asked["prompt"])
    assert echoed["text"].startswith(asked["prompt"])
    assert offsets[-count:] == [start + offset for offset in plain["logprobs"]["text_offset"]]
    assert offsets[0] == 0
    assert max(offsets[:-count]) < start


def plain_stop() -> str:
    """A stop string that no answer has, so long that much is held back for it."""
    return "\ufffd" * 40


def test_an_empty_stop_string_is_not_told_to_be_too_many(door: Doored) -> None:
    answer = door.ask(json={"inputs": "hi", "parameters": {"stop": [""], "max_new_tokens": 1}})
    assert answer.status_code == 422
    assert "up to 4" not in answer.json()["error"]
    answer = door.ask(json={"inputs": "hi", "parameters": {"stop": ["a"] * 5, "max_new_tokens": 1}})
    assert "up to 4 stop sequences" in answer.json()["error"]


def test_a_method_that_a_route_does_not_have_is_a_mistake_of_the_client(door: Doored) -> None:
    import httpx

    answer = httpx.put(f"{door.url}/generate", trust_env=False)
    assert (answer.status_code, answer.json()["error_type"]) == (405, "validation")
