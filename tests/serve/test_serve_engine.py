"""Each request gets the tokens its own settings ask for, whatever else shares the batch."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.core.chat import render
from easyllm.core.errors import StageFailed
from easyllm.serve.contract import Sampling, Token
from easyllm.serve.engines.embedded import (
    ContinuousBatching,
    greedy_reference,
    greedy_tokens,
    references_of,
    require_same_words,
)  # fmt: skip
from easyllm.serve.engines.loading import load_weights
from easyllm.serve.engines.sampling import new_slot, pick
from easyllm.serve.limits import Limits


async def collect(engine: Any, ids: list[int], count: int, sampling: Sampling) -> list[Token]:
    return [token async for token in engine.generate(ids, count, sampling)]


def together(engine: Any, *asks: tuple[list[int], int, Sampling]) -> list[list[int]]:
    """The answers to several requests that run at the same time."""

    async def all_of_them() -> list[list[Token]]:
        return await asyncio.gather(*(collect(engine, *ask) for ask in asks))

    return [[token.id for token in answer] for answer in asyncio.run(all_of_them())]


@pytest.fixture
def prompts(served: Any) -> list[list[int]]:
    texts = ("Hello", "灯塔的光", "the sea " * 30)
    return [render(served.tokenizer, [{"role": "user", "content": text}], True) for text in texts]


def test_three_requests_in_one_batch_say_what_plain_generate_says(served: Any, prompts: list[list[int]]) -> None:
    loaded = served.desk.model
    wanted = [greedy_reference(served.engine.model, ids, 40, loaded.ends) for ids in prompts]
    assert together(served.engine, *((ids, 40, Sampling()) for ids in prompts)) == wanted


def test_on_a_cpu_grouped_heads_share_their_keys_with_the_same_results(
    served: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, same = torch.nn.functional.scaled_dot_product_attention, list[bool]()

    def watched(query: Any, key: Any, value: Any, **settings: Any) -> Any:
        found = plain(query, key, value, **settings)
        if settings.pop("enable_gqa", False):
            copied = [each.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for each in (key, value)]
            same.append(torch.equal(found, plain(query, *copied, **settings)))
        return found

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    together(served.engine, *((ids, 6, Sampling()) for ids in prompts))
    assert len(same) >= 6 * served.engine.model.config.num_hidden_layers
    assert all(same)


def test_a_greedy_request_is_not_stirred_by_sampled_neighbours(served: Any, prompts: list[list[int]]) -> None:
    alone = greedy_tokens(served.engine, prompts[0], 30)
    hot = Sampling(temperature=2.0)
    mixed = together(served.engine, (prompts[1], 30, hot), (prompts[0], 30, Sampling()), (prompts[0], 30, hot))
    assert mixed[1] == alone
    assert mixed[2] != alone


def test_the_same_seed_gives_the_same_answer_in_any_company(served: Any, prompts: list[list[int]]) -> None:
    seeded, other = Sampling(temperature=1.5, seed=11), Sampling(temperature=1.5, seed=12)
    alone = together(served.engine, (prompts[1], 30, seeded))[0]
    crowd = together(served.engine, (prompts[1], 30, other), (prompts[0], 30, Sampling()), (prompts[1], 30, seeded))
    assert crowd[2] == alone
    assert crowd[0] != alone


def test_top_k_of_one_is_greedy_at_any_temperature(served: Any, prompts: list[list[int]]) -> None:
    hot = Sampling(temperature=3.0, top_k=1)
    assert together(served.engine, (prompts[0], 20, hot))[0] == greedy_tokens(served.engine, prompts[0], 20)


def test_logprobs_are_those_of_the_model(served: Any, prompts: list[list[int]]) -> None:
    said = asyncio.run(collect(served.engine, prompts[1], 6, Sampling(temperature=1.3, seed=1)))
    ids = torch.tensor([[*prompts[1], *[token.id for token in said]]])
    with torch.inference_mode():
        logprobs = served.engine.model(ids).logits[0].log_softmax(-1)
    for place, token in enumerate(said, start=len(prompts[1]) - 1):
        assert token.logprob == pytest.approx(float(logprobs[place, token.id]), abs=1e-4)


def test_a_dropped_request_leaves_the_engine_at_once(served: Any, prompts: list[list[int]]) -> None:
    async def drop() -> None:
        answer = served.engine.generate(prompts[0], 150, Sampling(temperature=1.0, top_k=50))
        await anext(answer)
        await answer.aclose()

    asyncio.run(drop())
    assert served.engine.running == 0
    assert not served.engine._manager.output_router.result_handlers
    assert greedy_tokens(served.engine, prompts[0], 5)  # and goes on answering


def test_sampled_tokens_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    slot = new_slot(Sampling(temperature=0.8, seed=0))
    counts = Counter(pick(logits, slot) for _ in range(4000))
    wanted = (logits / 0.8).softmax(-1)
    for token, probability in enumerate(wanted.tolist()):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_a_model_that_the_engine_reads_otherwise_than_generate_is_not_served(
    serve_model: Path, prompts: list[list[int]]
) -> None:
    model = load_weights(serve_model, torch.float32, torch.device("cpu"))
    engine = ContinuousBatching(model, [0], Limits(64, 60, 1))
    other = load_weights(serve_model, torch.float32, torch.device("cpu"))
    other.lm_head.weight.data.neg_()
    try:
        require_same_words(engine, prompts[:1], references_of(model, prompts[:1], [0]))
        with pytest.raises(StageFailed, match=r"SERVE-013.*generate"):
            require_same_words(engine, prompts[:1], references_of(other, prompts[:1], [0]))
    finally:
        engine.stop()
