"""The OpenAI API as its own client sees it."""

import json
from typing import Any

import httpx
import openai
import pytest

USER = [{"role": "user", "content": "灯塔"}]


@pytest.fixture(scope="module")
def client(served: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)


def post(served: Any, body: Any, path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
    return httpx.post(served.url + path, json=body, timeout=60, trust_env=False, **options)


def test_the_model_is_listed_and_answers_to_its_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny-chat"]
    assert client.models.retrieve("tiny-chat").owned_by == "easyllm"


def test_stream_and_whole_say_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny-chat", "messages": USER, "temperature": 0, "max_completion_tokens": 60}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(text) > 10
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens <= 60
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_a_stream_ends_with_done_and_has_no_usage_unless_asked(served: Any) -> None:
    answer = post(served, {"messages": USER, "max_tokens": 3, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def test_max_tokens_is_kept_and_said(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tgi", messages=USER, temperature=0, max_tokens=4)
    assert answer.usage.completion_tokens == 4
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_and_is_cut_off(served: Any, stream: bool) -> None:
    body = {"messages": USER, "temperature": 0, "max_tokens": 60}
    full = post(served, body).json()["choices"][0]["message"]["content"]
    stop = full[len(full) // 2 :][:3]
    answer = post(served, {**body, "stop": ["never said \x00", stop], "stream": stream})
    if stream:
        events = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
        said = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
        finish = events[-1]["choices"][0]["finish_reason"]
    else:
        choice = answer.json()["choices"][0]
        said, finish = choice["message"]["content"], choice["finish_reason"]
    assert said == full[: full.index(stop)]
    assert finish == "stop"


def test_seed_temperature_and_top_p_are_those_of_the_request(client: openai.OpenAI) -> None:
    def say(**settings: Any) -> str | None:
        asked: Any = {"model": "tiny-chat", "messages": USER, "max_tokens": 20} | settings
        return client.chat.completions.create(**asked).choices[0].message.content

    assert say(temperature=1.8, seed=5) == say(temperature=1.8, seed=5) != say(temperature=1.8, seed=6)
    assert say(temperature=1.8, top_p=1e-6) == say(temperature=0)


def test_without_a_temperature_the_answer_is_sampled_as_the_api_says(served: Any) -> None:
    answers = {post(served, {"messages": USER, "max_tokens": 20}).text.split('"content":')[1] for _ in range(4)}
    assert len(answers) > 1


def test_text_parts_and_nulls_are_understood(served: Any) -> None:
    plain = {"messages": USER, "temperature": 0, "max_tokens": 8}
    parts = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "灯"}, {"type": "text", "text": "塔"}],
                      "name": None, "tool_calls": None}],
        "temperature": 0.0, "max_tokens": 8, "n": 1, "stop": None, "tools": None, "logprobs": False, "seed": None,
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"},
        "model": None, "stream": None, "top_p": 1, "user": "me",
    }  # fmt: skip
    first, second = post(served, plain).json(), post(served, parts).json()
    assert first["choices"] == second["choices"]


def test_broken_json_and_missing_messages_are_told_apart(served: Any) -> None:
    broken = httpx.post(f"{served.url}/v1/chat/completions", content=b'{"messages": [', timeout=60, trust_env=False)
    assert broken.status_code == 400
    assert "not valid JSON" in broken.json()["error"]["message"]
    assert "`messages` is missing" in post(served, {}).json()["error"]["message"]


def test_what_the_template_refuses_is_the_callers_mistake(served: Any) -> None:
    messages = [*USER, {"role": "system", "content": "too late"}]
    answer = post(served, {"messages": messages})
    assert answer.status_code == 400
    assert "system comes first" in answer.json()["error"]["message"]


def test_an_unknown_model_is_not_answered_by_another(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-4", messages=USER)
    assert refused.value.code == "model_not_found"
    assert "tiny-chat" in refused.value.message


def test_a_conversation_too_long_is_refused_with_the_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tgi", messages=[{"role": "user", "content": "灯塔的光" * 200}])
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError, match=r"`messages` tokens \+ `max_tokens` must be <= 200"):
        client.chat.completions.create(model="tgi", messages=USER, max_tokens=199)
    with pytest.raises(openai.BadRequestError, match=r"and 198 `max_completion_tokens`"):
        client.chat.completions.create(model="tgi", messages=USER, max_completion_tokens=198)
    with pytest.raises(openai.BadRequestError, match=r"`prompt` must have less than 151 tokens"):
        client.completions.create(model="tgi", prompt="灯塔的光" * 200)


def test_one_request_too_many_is_told_to_come_back(served: Any, client: openai.OpenAI) -> None:
    for _ in range(3):
        served.desk.queue.running += 1  # three answers under way: the tiny model's own would be over too soon
    try:
        answer = post(served, {"messages": USER, "max_tokens": 1})
        tgi = post(served, {"inputs": "a"}, "/generate")
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="tgi", messages=USER, stream=True)
    finally:
        for _ in range(3):
            served.desk.queue.leave()
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert tgi.status_code == 429
    assert tgi.json() == {"error": "Model is overloaded", "error_type": "overloaded"}
    assert post(served, {"messages": USER, "max_tokens": 1}).status_code == 200


def test_completions_go_on_with_the_text_as_it_is(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny-chat", prompt="the sea", temperature=0, max_tokens=12)
    chunks = client.completions.create(model="tiny-chat", prompt="the sea", temperature=0, max_tokens=12, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.usage.completion_tokens == 12


def test_a_wrong_path_or_method_speaks_openai_below_v1(served: Any) -> None:
    assert post(served, {}, "/v1/embeddings").json()["error"]["type"] == "not_found_error"
    assert httpx.get(f"{served.url}/v1/chat/completions", trust_env=False).status_code == 405


def test_a_body_without_end_is_cut_off(served: Any) -> None:
    answer = post(served, {"messages": [{"role": "user", "content": "x" * 2_100_000}]})
    assert answer.status_code == 413
