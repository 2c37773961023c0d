"""The API of text-generation-inference as huggingface_hub's client sees it, and by hand."""

import json
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from easyllm.serve.engines.embedded import greedy_reference
from easyllm.serve.text import decode


def post(served: Any, path: str, body: Any) -> httpx.Response:
    return httpx.post(served.url + path, json=body, timeout=60, trust_env=False)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]


@pytest.fixture(scope="module")
def client(served: Any) -> InferenceClient:
    return InferenceClient(served.url, timeout=60)


def test_the_hub_client_gets_what_generate_says_token_for_token(served: Any, client: InferenceClient) -> None:
    loaded = served.desk.model
    ids = greedy_reference(served.engine.model, served.tokenizer.encode("the sea"), 40, loaded.ends)
    answer = client.text_generation("the sea", max_new_tokens=40, details=True)
    assert [token.id for token in answer.details.tokens] == ids
    assert answer.details.generated_tokens == len(ids)
    ended = ids[-1] in loaded.ends
    assert answer.details.finish_reason == ("eos_token" if ended else "length")
    assert answer.generated_text == decode(served.tokenizer, ids)
    assert client.text_generation("the sea", max_new_tokens=40) == answer.generated_text


def test_the_hub_client_streams_the_same_tokens(client: InferenceClient) -> None:
    whole = client.text_generation("灯塔", max_new_tokens=30, details=True)
    stream = list(client.text_generation("灯塔", max_new_tokens=30, details=True, stream=True))
    assert [event.token.id for event in stream] == [token.id for token in whole.details.tokens]
    assert [event.generated_text for event in stream[:-1]] == [None] * (len(stream) - 1)
    assert stream[-1].generated_text == whole.generated_text
    assert stream[-1].details.finish_reason == whole.details.finish_reason
    shown = "".join(event.token.text for event in stream if not event.token.special)
    assert shown == whole.generated_text


def test_the_hub_client_chats_under_the_name_dummy(served: Any, client: InferenceClient) -> None:
    messages = [{"role": "user", "content": "灯塔"}]
    chat = client.chat_completion(messages, max_tokens=12, temperature=0)
    rendered = served.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert chat.choices[0].message.content == client.text_generation(rendered, max_new_tokens=12)
    stream = client.chat_completion(messages, max_tokens=12, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == chat.choices[0].message.content


def test_the_old_route_answers_with_a_list_of_one(served: Any) -> None:
    body = {"inputs": "the sea", "parameters": {"max_new_tokens": 5}}
    old, new = post(served, "/", body).json(), post(served, "/generate", body).json()
    assert old == [new]
    assert set(new) == {"generated_text"}
    streamed = events(post(served, "/", {**body, "stream": True}))
    assert streamed == events(post(served, "/generate_stream", body))
    assert streamed[-1]["generated_text"] == new["generated_text"]


def test_a_stop_string_stays_at_the_end_as_in_tgi(served: Any) -> None:
    body: dict[str, Any] = {"inputs": "the sea", "parameters": {"max_new_tokens": 60}}
    full = post(served, "/generate", body).json()["generated_text"]
    stop = full[15:18]
    body["parameters"] |= {"stop": [stop], "details": True}
    answer = post(served, "/generate", body).json()
    assert answer["generated_text"] == full[: full.index(stop) + 3]
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert answer["details"]["generated_tokens"] < 60


def test_an_end_token_ends_the_answer_and_shows_as_special(served: Any) -> None:
    """Seeds are tried until the babble ends by itself; the end token is then in the tokens, not in the text."""
    for seed in range(60):
        settings = {"max_new_tokens": 100, "do_sample": True, "temperature": 3.0, "seed": seed, "details": True}
        answer = post(served, "/generate", {"inputs": "a", "parameters": settings}).json()
        if answer["details"]["finish_reason"] == "eos_token":
            last = answer["details"]["tokens"][-1]
            assert last["special"]
            assert last["text"] in ("<|text|>", "<|end|>")
            assert last["text"] not in answer["generated_text"]
            return
    pytest.fail("no answer ended by itself")


def test_greedy_unless_a_sampling_setting_says_otherwise(served: Any) -> None:
    def say(**settings: Any) -> str:
        body = {"inputs": "the sea", "parameters": {"max_new_tokens": 20, **settings}}
        return str(post(served, "/generate", body).json()["generated_text"])

    assert say() == say(seed=1) == say(do_sample=False) == say(temperature=1.0)
    assert say(temperature=1.9, seed=1) == say(temperature=1.9, seed=1) != say()
    assert say(do_sample=True, seed=1, top_k=1) == say()


def test_truncate_and_return_full_text(served: Any) -> None:
    last = served.tokenizer.decode(served.tokenizer.encode("the sea and the ship")[-2:])
    cut = {"inputs": "the sea and the ship", "parameters": {"max_new_tokens": 5, "truncate": 2}}
    plain = {"inputs": last, "parameters": {"max_new_tokens": 5, "return_full_text": True}}
    said = post(served, "/generate", cut).json()["generated_text"]
    assert post(served, "/generate", plain).json()["generated_text"] == last + said


def test_explicit_nulls_of_old_clients_are_accepted(served: Any) -> None:
    names = ("best_of", "repetition_penalty", "top_k", "top_p", "typical_p", "truncate", "seed", "grammar", "stop",
             "temperature", "max_new_tokens", "adapter_id", "top_n_tokens", "return_full_text")  # fmt: skip
    body = {"inputs": "a", "parameters": dict.fromkeys(names), "stream": False}
    assert post(served, "/", body).status_code == 200


def test_too_many_tokens_are_refused_before_they_cost_anything(served: Any, client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match=r"must be <= 200\. Given: \d+ `inputs` tokens and 200"):
        client.text_generation("a", max_new_tokens=200)
    answer = post(served, "/generate_stream", {"inputs": "灯塔的光" * 200})
    assert answer.status_code == 422
    assert "must have less than 151 tokens" in answer.json()["error"]
    assert post(served, "/generate", {"inputs": ""}).status_code == 422


def test_info_says_what_is_served(served: Any) -> None:
    info = httpx.get(f"{served.url}/info", trust_env=False).json()
    assert info["model_id"] == "tiny-chat"
    assert info["model_dtype"] == "float32"
    assert (info["max_total_tokens"], info["max_input_tokens"], info["max_concurrent_requests"]) == (200, 150, 3)
    assert httpx.get(f"{served.url}/health", trust_env=False).status_code == 200
    assert httpx.get(f"{served.url}/nothing", trust_env=False).json()["error_type"] == "not_found"


@pytest.mark.parametrize("path", ["/generate_stream", "/generate"])
def test_when_the_client_hangs_up_the_engine_stops(served: Any, long_babble: Any, path: str) -> None:
    body, unbroken = long_babble
    before = served.engine._manager.current_batch
    with httpx.Client(trust_env=False) as client:
        if path == "/generate":
            with pytest.raises(httpx.ReadTimeout):
                client.post(served.url + path, json=body, timeout=httpx.Timeout(60, read=0.03))
        else:
            with client.stream("POST", served.url + path, json=body, timeout=60) as answer:
                next(answer.iter_lines())
    assert served.idle()
    assert served.engine._manager.current_batch - before < unbroken
