"""Several answers in one request, log-probabilities, grammars and the headers that say where the time went."""

import json
from typing import Any

import httpx
import openai
import pytest
from huggingface_hub import InferenceClient

USER = [{"role": "user", "content": "灯塔"}]
CHAT: dict[str, Any] = {"model": "tiny-chat", "messages": USER, "max_tokens": 20, "temperature": 1.5}


@pytest.fixture(scope="module")
def client(served: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)


def post(served: Any, path: str, body: Any) -> httpx.Response:
    return httpx.post(served.url + path, json=body, timeout=60, trust_env=False)


def events(answer: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]


def test_several_answers_differ_and_each_can_be_had_again(client: openai.OpenAI) -> None:
    three = client.chat.completions.create(**CHAT, seed=7, n=3)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    alone = [client.chat.completions.create(**CHAT, seed=seed) for seed in (7, 8, 9)]
    assert [one.choices[0].message.content for one in alone] == texts
    assert three.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone)
    assert three.usage.prompt_tokens == alone[0].usage.prompt_tokens


def test_several_answers_are_streamed_with_their_index(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**CHAT, seed=7, n=3)
    said = ["", "", ""]
    finished: list[int] = []
    counted: Any = None
    for chunk in client.chat.completions.create(
        **CHAT, seed=7, n=3, stream=True, stream_options={"include_usage": True}
    ):
        counted = chunk.usage or counted
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            finished += [choice.index] if choice.finish_reason else []
    assert said == [choice.message.content for choice in whole.choices]
    assert sorted(finished) == [0, 1, 2]
    assert counted == whole.usage


def test_several_answers_get_all_their_places_or_none(served: Any) -> None:
    served.desk.queue.running += 1
    try:
        refused = post(served, "/v1/chat/completions", CHAT | {"n": 3})
        two = post(served, "/v1/chat/completions", CHAT | {"n": 2})
        best = post(served, "/generate", {"inputs": "a", "parameters": {"do_sample": True, "best_of": 2}})
    finally:
        served.desk.queue.leave()
    assert (refused.status_code, two.status_code, best.status_code) == (429, 200, 200)
    assert served.idle()


def test_when_the_client_of_several_answers_hangs_up_all_of_them_stop(served: Any) -> None:
    body = CHAT | {"n": 3, "stream": True, "max_tokens": 150, "logit_bias": {str(end): -100 for end in (0, 2)}}
    before = served.engine._manager.current_batch
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=60, trust_env=False) as answer:
        lines = answer.iter_lines()
        for _ in range(6):
            next(lines)
    assert served.idle()
    assert served.engine._manager.current_batch - before < 140


def test_a_list_of_prompts_is_answered_in_one_body(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny-chat", "max_tokens": 8, "temperature": 0}
    alone = [client.completions.create(prompt=prompt, **asked).choices[0].text for prompt in ("the sea", "灯塔")]
    both = client.completions.create(prompt=["the sea", "灯塔"], **asked)
    assert [choice.text for choice in both.choices] == alone


def test_the_best_of_several_completions_is_the_likeliest_a_token(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny-chat", "prompt": "the sea", "max_tokens": 8, "temperature": 1.5, "seed": 3}
    each = client.completions.create(**asked, n=3, logprobs=0).choices

    def mean(choice: Any) -> float:
        values = choice.logprobs.token_logprobs
        return float(sum(values) / len(values))

    assert client.completions.create(**asked, best_of=3).choices[0].text == max(each, key=mean).text


@pytest.mark.parametrize("stream", [False, True])
def test_a_chats_logprobs_have_the_texts_own_bytes(served: Any, stream: bool) -> None:
    body = CHAT | {"seed": 2, "logprobs": True, "top_logprobs": 4, "stream": stream, "max_tokens": 40}
    answer = post(served, "/v1/chat/completions", body)
    if stream:
        told = [event["choices"][0] for event in events(answer)]
        content = [one for choice in told for one in (choice["logprobs"] or {"content": []})["content"]]
        text = "".join(choice["delta"].get("content", "") for choice in told)
    else:
        (choice,) = answer.json()["choices"]
        content, text = choice["logprobs"]["content"], choice["message"]["content"]
    spelled = bytes(number for one in content for number in one["bytes"] if not one["token"].startswith("<|"))
    assert spelled.decode(errors="replace") == text
    assert any(len(one["token"].encode()) != len(one["bytes"]) for one in content)
    for one in content:
        assert len(one["top_logprobs"]) == 4
        values = [other["logprob"] for other in one["top_logprobs"]]
        assert values == sorted(values, reverse=True)
        assert one["logprob"] <= 0


def test_logprobs_are_those_of_the_model_itself(served: Any) -> None:
    import torch

    body = {"prompt": "the sea", "max_tokens": 1, "temperature": 0, "logprobs": 3, "return_token_ids": True}
    (choice,) = post(served, "/v1/completions", body).json()["choices"]
    with torch.inference_mode():
        values = served.engine.model(torch.tensor([served.tokenizer.encode("the sea")])).logits[0, -1].log_softmax(-1)
    assert choice["logprobs"]["token_logprobs"] == pytest.approx([float(values.max())], abs=1e-4)
    assert max(choice["logprobs"]["top_logprobs"][0].values()) == pytest.approx(float(values.max()), abs=1e-4)


def test_a_schema_that_cannot_be_kept_is_refused_with_its_fault(served: Any, client: openai.OpenAI) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="grammar"):
            client.chat.completions.create(**CHAT, response_format=wrong, stream=stream)
    for grammar in ({"type": "regex", "value": "(a"}, {"type": "json", "value": {"type": 5}}):
        answer = post(served, "/generate", {"inputs": "a", "parameters": {"grammar": grammar}})
        assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")
        assert "grammar" in answer.json()["error"]


def test_a_pydantic_model_comes_back_through_the_openai_client(client: openai.OpenAI) -> None:
    from pydantic import BaseModel

    class Sky(BaseModel):
        blue: bool

    body = {"model": "tiny-chat", "messages": USER, "max_tokens": 150, "temperature": 0}
    found = client.chat.completions.parse(**body, response_format=Sky)
    assert isinstance(found.choices[0].message.parsed, Sky)


def test_the_hub_client_gets_prefill_top_tokens_and_the_other_sequences(served: Any) -> None:
    hub = InferenceClient(served.url, timeout=60)
    found = hub.text_generation(
        "the sea", details=True, best_of=2, do_sample=True, top_n_tokens=3, decoder_input_details=True,
        max_new_tokens=6,
    )  # fmt: skip
    details = found.details
    assert [token.id for token in details.prefill] == served.tokenizer.encode("the sea")
    assert details.prefill[0].logprob is None
    assert details.prefill[1].logprob < 0
    assert [len(top) for top in details.top_tokens] == [3] * details.generated_tokens
    (other,) = details.best_of_sequences
    means = [sum(t.logprob for t in one.tokens) / len(one.tokens) for one in (details, other)]
    assert means[0] >= means[1]
    assert other.seed != details.seed
    again = hub.text_generation("the sea", do_sample=True, seed=details.seed, max_new_tokens=6)
    assert again == found.generated_text


def test_a_streamed_token_has_its_likeliest_others(served: Any) -> None:
    body = {"inputs": "the sea", "parameters": {"max_new_tokens": 4, "top_n_tokens": 2, "details": True}}
    streamed = events(post(served, "/generate_stream", body))
    whole = post(served, "/generate", body).json()["details"]
    assert [event["top_tokens"] for event in streamed] == whole["top_tokens"]
    assert all(top[0]["id"] == event["token"]["id"] for event in streamed for top in [event["top_tokens"]])


def test_the_headers_say_where_the_time_went(served: Any) -> None:
    body = {"inputs": "the sea 灯塔", "parameters": {"max_new_tokens": 40, "details": True}}
    answer = post(served, "/generate", body)
    told = {name: answer.headers[f"x-{name}"] for name in NAMES}
    assert told["compute-type"] == "cpu"
    assert told["compute-characters"] == str(len("the sea 灯塔"))
    assert told["prompt-tokens"] == str(len(served.tokenizer.encode("the sea 灯塔")))
    made = answer.json()["details"]["generated_tokens"]
    assert told["generated-tokens"] == str(made)
    spent = {name: int(told[f"{name}-time"]) for name in ("total", "validation", "queue", "inference")}
    assert 0 < spent["inference"] <= spent["total"] <= answer.elapsed.total_seconds() * 1000
    assert abs(spent["total"] - spent["validation"] - spent["queue"] - spent["inference"]) <= 3
    assert int(told["time-per-token"]) == spent["inference"] // made
    assert abs(float(told["compute-time"]) * 1000 - spent["total"]) <= 1
    longer = post(served, "/generate", {"inputs": "the sea", "parameters": {"max_new_tokens": 1}})
    assert int(longer.headers["x-inference-time"]) < spent["inference"]
    streamed = post(served, "/generate_stream", body)
    assert (streamed.headers["x-compute-type"], streamed.headers["x-compute-characters"]) == ("cpu", "10")


NAMES = ("compute-type", "compute-time", "compute-characters", "total-time", "validation-time", "queue-time",
         "inference-time", "time-per-token", "prompt-tokens", "generated-tokens")  # fmt: skip


def test_tokens_are_told_with_their_place_in_the_text(served: Any) -> None:
    text = "the sea and 灯塔"
    tokens = post(served, "/tokenize", {"inputs": text}).json()
    assert [token["id"] for token in tokens] == served.tokenizer.encode(text)
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in tokens)
    last = post(served, "/tokenize", {"inputs": text, "parameters": {"truncate": 2}}).json()
    assert last == tokens[-2:]
    chat = post(served, "/chat_tokenize", {"messages": USER}).json()
    rendered = served.tokenizer.apply_chat_template(USER, add_generation_prompt=True, return_dict=False)
    assert [token["id"] for token in chat["tokenize_response"]] == rendered
    assert chat["templated_text"] == served.tokenizer.decode(rendered)
    late = post(served, "/chat_tokenize", {"messages": [*USER, {"role": "system", "content": "late"}]})
    assert (late.status_code, late.json()["error_type"]) == (422, "template_error")


def test_one_route_takes_every_kind_of_request(served: Any) -> None:
    plain = {"inputs": "the sea", "parameters": {"max_new_tokens": 5}}
    assert post(served, "/invocations", plain).json() == post(served, "/", plain).json()
    chat = {"messages": USER, "max_tokens": 5, "temperature": 0}
    completion = {"prompt": "the sea", "max_tokens": 5, "temperature": 0}
    for body, path in ((chat, "/v1/chat/completions"), (completion, "/v1/completions")):
        assert post(served, "/invocations", body).json()["choices"] == post(served, path, body).json()["choices"]
    assert events(post(served, "/invocations", chat | {"stream": True}))[0]["object"] == "chat.completion.chunk"
    assert post(served, "/invocations", {"x": 1}).status_code == 422
    assert httpx.get(f"{served.url}/ping", trust_env=False).status_code == 200
