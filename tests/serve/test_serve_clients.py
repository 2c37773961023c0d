"""The clients that people have, against the running server: openai, huggingface_hub, text-generation 0.7."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from huggingface_hub import InferenceClient
from pydantic import BaseModel

from tgi_client import run_beside, tgi_client_packages

USER: Any = [{"role": "user", "content": "灯塔"}]
GREEDY: dict[str, Any] = {"model": "tiny-chat", "messages": USER, "temperature": 0, "max_tokens": 24}


class Weather(BaseModel):
    calm: bool
    sky: Literal["clear", "grey"]


@pytest.fixture(scope="module")
def client(served: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def hub(served: Any) -> InferenceClient:
    return InferenceClient(served.url, timeout=60)


def test_openai_parses_an_answer_into_the_class_that_was_asked_for(client: openai.OpenAI) -> None:
    for settings in ({"temperature": 0}, {"temperature": 1.5, "seed": 3}):
        answer = client.chat.completions.parse(
            model="tiny-chat", messages=USER, max_tokens=80, response_format=Weather, **settings
        )
        (choice,) = answer.choices
        assert isinstance(choice.message.parsed, Weather)
        assert choice.message.parsed == Weather.model_validate_json(str(choice.message.content))
        assert choice.finish_reason == "stop"


def test_openai_streams_a_structured_answer(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="tiny-chat", messages=USER, max_tokens=80, temperature=0, response_format=Weather
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"content.delta", "content.done"} <= kinds
    assert isinstance(final.choices[0].message.parsed, Weather)


def test_openais_async_client_asks_several_at_once_and_each_gets_its_own_answer(
    served: Any, client: openai.OpenAI
) -> None:
    prompts = ["the sea", "灯塔的光", "go to the ship"]
    asked = {"model": "tiny-chat", "max_tokens": 20, "temperature": 0}
    alone = [client.completions.create(prompt=prompt, **asked).choices[0].text for prompt in prompts]

    async def ask(other: openai.AsyncOpenAI, prompt: str) -> str:
        pieces = await other.completions.create(prompt=prompt, stream=True, **asked)
        return "".join([chunk.choices[0].text async for chunk in pieces if chunk.choices])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as other:
            return await asyncio.gather(*[ask(other, prompt) for prompt in prompts])

    assert asyncio.run(all_of_them()) == alone
    assert len(set(alone)) == len(prompts)


def test_openais_client_reads_choices_and_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**GREEDY | {"temperature": 1.2, "n": 2, "seed": 5})
    assert [choice.index for choice in answer.choices] == [0, 1]
    first, second = (choice.message.content for choice in answer.choices)
    assert first != second
    (choice,) = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3).choices
    assert choice.logprobs
    assert choice.logprobs.content
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob, abs=1e-4)


def test_openais_errors_are_its_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**GREEDY, extra_body={"no_such_field": 1})
    assert refused.value.param == "no_such_field"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_the_hub_client_gets_details_tokens_and_what_was_not_chosen(hub: InferenceClient) -> None:
    answer = hub.text_generation(
        "the sea", max_new_tokens=12, details=True, decoder_input_details=True, top_n_tokens=2, best_of=2,
        do_sample=True, temperature=1.3,
    )  # fmt: skip
    details = answer.details
    assert details
    assert details.generated_tokens == len(details.tokens) <= 12
    assert [token.id for token in details.prefill]
    assert details.top_tokens
    assert all(len(entry) == 2 for entry in details.top_tokens)
    (other,) = details.best_of_sequences or []
    mine, its = (sum(token.logprob for token in tokens) / len(tokens) for tokens in (details.tokens, other.tokens))
    assert mine >= its


def test_the_hub_client_streams_details(hub: InferenceClient) -> None:
    asked: dict[str, Any] = {"max_new_tokens": 16, "details": True}
    whole = hub.text_generation("灯塔", **asked)
    events = list(hub.text_generation("灯塔", stream=True, **asked))
    assert [event.token.id for event in events] == [token.id for token in whole.details.tokens]
    assert events[-1].details
    assert events[-1].details.generated_tokens == whole.details.generated_tokens
    assert events[-1].details.finish_reason == whole.details.finish_reason


def test_the_hub_client_holds_an_answer_to_a_grammar(hub: InferenceClient) -> None:
    text = hub.text_generation("a", max_new_tokens=80, grammar={"type": "json", "value": Weather.model_json_schema()})
    Weather.model_validate_json(text)
    assert hub.text_generation("a", max_new_tokens=20, grammar={"type": "regex", "value": "(sea|ship)"}) in (
        "sea",
        "ship",
    )
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": Weather.model_json_schema()}}
    chat = hub.chat_completion(USER, max_tokens=80, temperature=0, response_format=form)
    Weather.model_validate_json(str(chat.choices[0].message.content))


OLD_CLIENT = """
import json, sys
from text_generation import Client
from text_generation.errors import ValidationError

client = Client(sys.argv[1], timeout=60)
whole = client.generate("the sea", max_new_tokens=10, best_of=2, do_sample=True, temperature=1.4)
plain = client.generate("the sea", max_new_tokens=10, decoder_input_details=True)
events = list(client.generate_stream("the sea", max_new_tokens=10))
chat = client.chat([{"role": "user", "content": "the sea"}], max_tokens=10, temperature=0.0)
try:
    client.generate("the sea", max_new_tokens=100_000)
    refused = None
except ValidationError as error:
    refused = str(error)
import huggingface_hub
print(json.dumps({
    "hub": huggingface_hub.__version__,
    "others": len(whole.details.best_of_sequences),
    "prefill": len(plain.details.prefill),
    "plain": plain.generated_text,
    "streamed": events[-1].generated_text,
    "finish": [plain.details.finish_reason.value, events[-1].details.finish_reason.value],
    "chat": chat.choices[0].message.content,
    "refused": refused,
}))
"""


def test_text_generation_0_7_in_its_own_packages(served: Any, client: openai.OpenAI) -> None:
    """All but a streamed chat: it reads no event whose delta lacks tool_calls."""
    found = json.loads(run_beside(tgi_client_packages(), OLD_CLIENT, served.url))
    assert found["hub"].startswith("0.")
    plain = client.completions.create(model="tiny-chat", prompt="the sea", temperature=0, max_tokens=10)
    assert found["plain"] == found["streamed"] == plain.choices[0].text
    assert (found["others"], found["finish"]) == (1, ["length", "length"])
    assert found["prefill"] == plain.usage.prompt_tokens
    asked = client.chat.completions.create(
        **GREEDY | {"messages": [{"role": "user", "content": "the sea"}], "max_tokens": 10}
    )
    assert found["chat"] == asked.choices[0].message.content
    assert "max_new_tokens" in found["refused"]


def test_lm_evals_local_completions_scores_and_says_what_the_model_does_offline(served: Any, serve_model: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    remote = LocalCompletionsAPI(
        base_url=f"{served.url}/v1/completions", model="tiny-chat", tokenizer=str(serve_model), max_length=150,
        tokenizer_backend="huggingface",
    )  # fmt: skip
    local = HFLM(pretrained=served.engine.model, tokenizer=served.tokenizer, batch_size=1, max_length=150)
    pairs = [("the sea", " go to the ship"), ("灯塔的光", " the sea"), ("the ship", " the sea")]
    asked = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    for (far, best), (near, best_near) in zip(remote.loglikelihood(asked), local.loglikelihood(asked), strict=True):
        assert far == pytest.approx(near, abs=1e-3)
        assert best == best_near
    settings = {"until": ["\n\n\n"], "max_gen_toks": 12, "temperature": 0}
    prompts = [Instance("generate_until", {}, (text, dict(settings)), 0) for text in ("the sea", "go to the ship")]
    said = remote.generate_until(prompts)
    assert said == local.generate_until(prompts)
    assert all(said)
