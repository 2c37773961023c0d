"""Our API in front of another server that generates: a real one of ours here, vLLM on a machine that has it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from easyllm.core.errors import UserError
from easyllm.core.stage import Job
from easyllm.serve import address, checks, plan, run
from easyllm.serve.config import ServeConfig
from easyllm.serve.contract import Abilities, Remote, Sampling
from easyllm.serve.engines.wire import request_body
from easyllm.serve.limits import Limits

MakeJob = Callable[..., Job[ServeConfig]]
CHAT = {"messages": [{"role": "user", "content": "灯塔"}], "max_tokens": 60, "temperature": 0}
SCHEMA = {"type": "object", "properties": {"sky": {"enum": ["blue", "grey"]}}, "required": ["sky"]}


@dataclass
class Front:
    """A server whose engine is another one."""

    url: str
    desk: Any


@contextmanager
def in_front_of(upstream: str, model: Path, **settings: Any) -> Iterator[Front]:
    """A second server of ours in this process, its engine the one at ``upstream``."""
    import uvicorn

    from easyllm.serve.app import build_app
    from easyllm.serve.desk import About, Desk
    from easyllm.serve.engines.remote import load_remote

    limits = Limits(total_tokens=200, input_tokens=150, concurrent_requests=3)
    desk = Desk(About("tiny-front", "abc", limits))
    desk.loaded = load_remote(model, "tiny-front", limits, Remote(upstream, **settings))
    listening = address.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(desk), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield Front(f"http://127.0.0.1:{listening.getsockname()[1]}", desk)
    finally:
        server.should_exit = True
        thread.join(10)
        desk.loaded.voice.engine.stop()


@pytest.fixture(scope="module")
def front(served: Any, serve_model: Path) -> Iterator[Front]:
    with in_front_of(f"{served.url}/v1", serve_model) as found:
        yield found


def post(server: Any, path: str, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, trust_env=False, **({"timeout": 60} | options))


def events(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def same(served: Any, front: Front, path: str, body: Any) -> Any:
    """What both servers answer, but for names, ids and clocks; it must be the same."""
    answers = []
    for server in (served, front):
        answer = post(server, path, body)
        assert answer.status_code == 200, answer.text
        found = events(answer) if answer.headers["content-type"].startswith("text/event-stream") else answer.json()
        for entry in found if isinstance(found, list) else [found]:
            for name in ("id", "created", "model"):
                entry.pop(name, None)
        answers.append(json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 5)))
    assert answers[0] == answers[1]
    return answers[1]


@pytest.mark.parametrize("stream", [False, True])
def test_chat_says_what_the_engine_says_when_asked_directly(served: Any, front: Front, stream: bool) -> None:
    body = {**CHAT, "stream": stream, **({"stream_options": {"include_usage": True}} if stream else {})}
    said = same(served, front, "/v1/chat/completions", body)
    usage = said[-1]["usage"] if stream else said["usage"]
    assert 1 < usage["completion_tokens"] <= 60
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_tgi_gets_the_same_tokens_ids_logprobs_and_details(served: Any, front: Front, stream: bool) -> None:
    body = {"inputs": "the sea", "parameters": {"max_new_tokens": 40, "details": True}, "stream": stream}
    said = same(served, front, "/", body)
    assert len(said if stream else said[0]["details"]["tokens"]) > 5


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["the sea", [70, 104, 8]], ids=["text", "token ids"])
def test_completions_say_the_same_of_a_text_and_of_token_ids(
    served: Any, front: Front, prompt: str | list[int], stream: bool
) -> None:
    asked = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "return_token_ids": True, "logprobs": 0}
    said = same(served, front, "/v1/completions", {**asked, "stream": stream})
    choices = [entry["choices"][0] for entry in said] if stream else [said["choices"][0]]
    assert sum(len(choice["token_ids"]) for choice in choices) == 12
    assert sum(len(choice["logprobs"]["token_logprobs"]) for choice in choices) == 12
    assert choices[0]["prompt_token_ids"] == (served.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)


def test_token_ids_say_what_their_text_says_and_strange_ones_are_refused(served: Any) -> None:
    asked = {"max_tokens": 12, "temperature": 0}
    as_text = post(served, "/v1/completions", {**asked, "prompt": "the sea"}).json()
    as_ids = post(served, "/v1/completions", {**asked, "prompt": served.tokenizer.encode("the sea")}).json()
    assert as_text["choices"] == as_ids["choices"]
    for wrong in ([], [len(served.tokenizer)], [-1], [[1], "a"], [[1, 2], []]):
        refused = post(served, "/v1/completions", {**asked, "prompt": wrong})
        assert refused.status_code == 400, wrong
        assert refused.json()["error"]["param"].startswith("prompt")


def test_end_tokens_may_be_named_but_not_changed(served: Any) -> None:
    asked = {"prompt": "a", "max_tokens": 2}
    own = served.desk.model.ends
    assert post(served, "/v1/completions", {**asked, "ignore_eos": True, "stop_token_ids": own}).status_code == 200
    assert post(served, "/v1/completions", {**asked, "stop_token_ids": own[:1]}).status_code == 200
    for field, wrong in (("ignore_eos", True), ("stop_token_ids", [5])):
        refused = post(served, "/v1/completions", {**asked, field: wrong})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == field


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_are_found_here_and_the_engine_is_let_go(served: Any, front: Front, stream: bool) -> None:
    full = post(front, "/v1/chat/completions", CHAT).json()["choices"][0]["message"]["content"]
    stop = full[len(full) // 2 :][:3]
    same(served, front, "/v1/chat/completions", {**CHAT, "stop": [stop], "stream": stream})
    told = same(served, front, "/", {"inputs": "the sea", "parameters": {"stop": ["e"], "details": True}})
    assert told[0]["details"]["finish_reason"] == "stop_sequence"
    assert served.idle()


def test_sampling_settings_reach_the_engine(served: Any, front: Front) -> None:
    def say(**settings: Any) -> str:
        return str(post(front, "/v1/chat/completions", {**CHAT, **settings}).json()["choices"][0]["message"]["content"])

    warm = {"temperature": 1.8, "seed": 5, "top_p": 0.9, "top_k": 50}
    said = same(served, front, "/v1/chat/completions", {**CHAT, **warm})
    assert said["choices"][0]["message"]["content"] == say(**warm) != say(**warm | {"seed": 6})
    assert say(temperature=1.8, top_k=1) == say(temperature=1.8, top_p=1e-6) == say()


def test_one_easyllm_behind_another_keeps_every_ability(front: Front) -> None:
    assert front.desk.model.voice.engine.abilities == Abilities(
        penalties=True, likeliest=True, grammar=True, score=True
    )


def test_a_front_that_promises_more_than_the_engine_behind_takes_is_refused(served: Any, serve_model: Path) -> None:
    from easyllm.serve.engines.remote import load_remote

    with pytest.raises(UserError, match=r"SERVE-036 .*201.*200"):
        load_remote(serve_model, "tiny", Limits(201, 150, 3), Remote(f"{served.url}/v1"))


ABLE: list[tuple[str, Any]] = [
    ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 20}),
    ("/v1/chat/completions", {**CHAT, "frequency_penalty": 1.5, "logit_bias": {"70": 3}}),
    ("/v1/completions", {"prompt": "the sea", "max_tokens": 8, "temperature": 0, "echo": True, "logprobs": 3}),
    ("/v1/completions", {"prompt": "the sea", "max_tokens": 8, "temperature": 0, "prompt_logprobs": 2}),
    ("/v1/completions", {"prompt": "a", "structured_outputs": {"json": SCHEMA}, "temperature": 0, "max_tokens": 90}),
    ("/generate", {"inputs": "the sea", "parameters": {"decoder_input_details": True, "top_n_tokens": 3}}),
    ("/generate", {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "(blue|grey)"}}}),
]


@pytest.mark.parametrize(("path", "body"), ABLE)
def test_what_the_engine_behind_can_is_the_same_through_the_front(
    served: Any, front: Front, path: str, body: Any
) -> None:
    same(served, front, path, body)


def test_tokens_named_by_their_ids_are_those_named_by_text(served: Any) -> None:
    asked = {"prompt": "the 灯塔", "max_tokens": 8, "temperature": 0, "echo": True, "logprobs": 2}
    asked |= {"return_token_ids": True}
    by_text = post(served, "/v1/completions", asked).json()["choices"][0]
    by_id = post(served, "/v1/completions", asked | {"return_tokens_as_token_ids": True}).json()["choices"][0]
    ids = by_id["prompt_token_ids"] + by_id["token_ids"]
    assert by_id["logprobs"]["tokens"] == [f"token_id:{number}" for number in ids]
    assert by_text["logprobs"]["tokens"] == [served.tokenizer.decode([number]) for number in ids]
    for name in ("token_logprobs", "text_offset"):
        assert by_id["logprobs"][name] == pytest.approx(by_text["logprobs"][name], abs=1e-4)
    for place, number in enumerate(ids):
        assert place == 0 or by_id["logprobs"]["top_logprobs"][place][f"token_id:{number}"] < 0


def test_scores_of_a_prompt_stand_beside_the_answer_by_id(served: Any) -> None:
    ids = served.tokenizer.encode("the sea and 灯塔")
    asked = {"prompt": ids, "max_tokens": 1, "temperature": 0}
    places = post(served, "/v1/completions", {**asked, "prompt_logprobs": 2}).json()["choices"][0]["prompt_logprobs"]
    echoed = post(served, "/v1/completions", {**asked, "echo": True, "logprobs": 0}).json()["choices"][0]["logprobs"]
    assert places[0] is None
    for number, place, value in zip(ids[1:], places[1:], echoed["token_logprobs"][1:-1], strict=True):
        assert place[str(number)]["logprob"] == pytest.approx(value, abs=1e-4)
        best = sorted(place.values(), key=lambda entry: -entry["logprob"])
        assert [entry["rank"] for entry in best] == [1, 2, None][: len(best)]
    for wrong in ({"stream": True, "prompt_logprobs": 1}, {"structured_outputs": {}}):
        refused = post(served, "/v1/completions", asked | wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, [*wrong][-1])


def test_what_the_request_does_not_say_is_said_for_it() -> None:
    """vLLM would fill what is left out from generation_config.json: a repetition penalty nobody asked for, say."""
    body = request_body("m", [1], 5, Sampling(), [0, 2])
    assert (body["repetition_penalty"], body["min_p"], body["frequency_penalty"], body["presence_penalty"]) == (
        1,
        0,
        0,
        0,
    )
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0, 1, 0)
    assert "seed" not in body


def test_the_openai_client_streams_through(front: Front) -> None:
    client = openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0, timeout=60)
    asked: Any = {"model": "tiny-front", "messages": CHAT["messages"], "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_limits_and_refusals_are_those_of_the_front(front: Front) -> None:
    assert post(front, "/v1/chat/completions", {**CHAT, "max_tokens": 199}).json()["error"]["code"] == (
        "context_length_exceeded"
    )
    assert post(front, "/generate", {"inputs": "a", "parameters": {"best_of": 2}}).json()["error_type"] == "validation"
    info = httpx.get(f"{front.url}/info", trust_env=False).json()
    assert (info["model_id"], info["model_dtype"], info["max_total_tokens"]) == ("tiny-front", None, 200)
    assert httpx.get(f"{front.url}/health", trust_env=False).status_code == 200


@pytest.mark.parametrize("path", ["/generate_stream", "/generate"])
def test_when_the_client_hangs_up_the_engine_behind_stops(
    served: Any, front: Front, long_babble: Any, path: str
) -> None:
    body, unbroken = long_babble
    before = served.engine._manager.current_batch
    with httpx.Client(trust_env=False) as client:
        if path == "/generate":
            with pytest.raises(httpx.ReadTimeout):
                client.post(front.url + path, json=body, timeout=httpx.Timeout(60, read=0.05))
        else:
            with client.stream("POST", front.url + path, json=body, timeout=60) as answer:
                next(answer.iter_lines())
    assert served.idle()
    assert served.engine._manager.current_batch - before < unbroken
    deadline = time.monotonic() + 30  # the front's own side of the same hang-up may end a moment later
    while (front.desk.running or front.desk.model.voice.engine.running) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert front.desk.running == front.desk.model.voice.engine.running == 0


def test_an_overloaded_engine_is_told_as_429_also_when_streaming(served: Any, front: Front) -> None:
    for _ in range(3):
        served.desk.queue.running += 1
    try:
        answers = [post(front, "/v1/chat/completions", {**CHAT, "stream": stream}) for stream in (False, True)]
        answers += [post(front, path, {"inputs": "a"}) for path in ("/generate", "/generate_stream")]
    finally:
        for _ in range(3):
            served.desk.queue.leave()
    assert [answer.status_code for answer in answers] == [429] * 4
    assert answers[1].json()["error"]["type"] == "rate_limit_error"
    assert answers[3].json() == {"error": "Model is overloaded", "error_type": "overloaded"}
    assert post(front, "/generate", {"inputs": "a"}).status_code == 200


def test_a_pipeline_rehearses_with_the_remote_engine_too(served: Any, serve_model: Path, serve_job: MakeJob) -> None:
    settings = {"engine": "remote", "remote": f"{served.url}/v1", "max_total_tokens": 200}
    result = run.run(serve_job(serve_model, ask=("Hello", "灯塔"), ask_tokens=16, **settings))
    answers = result.records["answers"]
    assert [entry["same_as_generate"] for entry in answers] == [None, None]
    assert all(entry["answer"] for entry in answers)
    assert [entry.value for entry in result.decisions if entry.what == "engine"] == ["remote"]


def test_the_plan_says_which_engine_answers_and_why(serve_model: Path, serve_job: MakeJob) -> None:
    url = "http://vllm:8000/v1"
    made = plan.plan(serve_job(serve_model, engine="remote", remote=url, remote_key_variable="HOME"))
    assert (made.decisions[0].what, made.decisions[0].value) == ("engine", "remote")
    assert url in made.decisions[0].why
    assert made.memory_bytes == 0
    assert f"--remote {url} --remote-key-variable HOME" in made.commands[0]
    own = plan.plan(serve_job(serve_model))
    assert own.decisions[0].value == "embedded"
    assert "--remote" not in own.commands[0]


@pytest.mark.parametrize(
    "url",
    ["vllm:8000/v1", "ftp://vllm/v1", "http://vllm:8000", "http:///v1", "http://u:secret@vllm/v1", "http://v:99999/v1",
     "http://vllm/v1?key=1", "http://a..b/v1", f"http://{'a' * 64}/v1"],
)  # fmt: skip
def test_an_address_that_cannot_be_one_is_refused_without_its_password(
    serve_model: Path, serve_job: MakeJob, url: str
) -> None:
    problems = checks.check(serve_job(serve_model, engine="remote", remote=url))
    assert [entry.code for entry in problems] == ["SERVE-031"]
    assert "secret" not in str(problems[0])


def test_addresses_as_people_write_them_pass(serve_model: Path, serve_job: MakeJob) -> None:
    for url in ("http://vllm:8000/v1", "https://gpu.example/llm/v1/", "http://[::1]:8000/v1"):
        assert checks.check(serve_job(serve_model, engine="remote", remote=url)) == []
