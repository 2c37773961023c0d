"""Every sampling parameter does what transformers' own processors do, to its own request and to no other."""

import asyncio
import math
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation.logits_process import SequenceBiasLogitsProcessor

from easyllm.core.chat import render
from easyllm.serve.contract import EngineFailed, Sampling, Token
from easyllm.serve.engines.sampling import bend, choose, new_slot, pick, survivors

VOCABULARY = 3000
SETTINGS = [
    Sampling(1.0, top_k=1),
    Sampling(0.7, top_k=50),
    Sampling(1.3, top_p=0.9),
    Sampling(1.0, top_p=0.001),
    Sampling(5.0, top_p=0.999),
    Sampling(0.9, min_p=0.1),
    Sampling(1.1, typical_p=0.5),
    Sampling(0.6, typical_p=0.95, top_p=0.8),
    Sampling(0.8, top_k=100, top_p=0.95, min_p=0.02, typical_p=0.9),
    Sampling(1.7, top_k=5, top_p=0.5, min_p=0.3),
    Sampling(1.0, top_k=VOCABULARY),
]


def random_logits(seed: int) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def by_transformers(logits: torch.Tensor, asked: Sampling) -> torch.Tensor:
    """Probabilities after transformers' own warpers, in its own order."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(asked.temperature)])
    if asked.top_k:
        warpers.append(TopKLogitsWarper(asked.top_k))
    if asked.top_p < 1.0:
        warpers.append(TopPLogitsWarper(asked.top_p))
    if asked.min_p:
        warpers.append(MinPLogitsWarper(asked.min_p))
    if asked.typical_p < 1.0:
        warpers.append(TypicalLogitsWarper(asked.typical_p))
    return warpers(torch.zeros(1, 1, dtype=torch.long), logits[None].clone())[0].softmax(-1)


@pytest.mark.parametrize("asked", SETTINGS, ids=repr)
def test_cuts_keep_the_tokens_and_probabilities_of_transformers(asked: Sampling) -> None:
    for seed in range(30):
        logits = random_logits(seed)
        wanted = by_transformers(logits, asked)
        ids, kept = survivors(logits / asked.temperature, asked)
        assert sorted(ids.tolist()) == wanted.nonzero()[:, 0].tolist()
        torch.testing.assert_close(kept.softmax(-1), wanted[ids], atol=1e-6, rtol=1e-4)


def test_equally_likely_tokens_stay_together_at_the_edge_of_top_k() -> None:
    ids, _ = survivors(torch.tensor([3.0, 2.0, 2.0, 1.0]), Sampling(1.0, top_k=2))
    assert ids.tolist() == [0, 1, 2]


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    sizes = [len(survivors(logits, Sampling(1.0, top_p=p))[0]) for p in (0.01, 0.5, 0.6, 0.8001, 0.95001, 1.0)]
    assert sizes == [1, 1, 2, 3, 4, 4]


def test_repetition_penalty_and_bias_are_those_of_transformers_over_prompt_and_answer() -> None:
    prompt, answer = [5, 9, 9, 700], [9, 31, 4]
    asked = Sampling(repetition_penalty=1.3, logit_bias=((4, 2.5), (2999, -100.0)))
    slot = new_slot(asked, prompt)
    for token in answer:
        slot.take(Token(token, 0.0))
    theirs = LogitsProcessorList(
        [
            SequenceBiasLogitsProcessor([[[token], bias] for token, bias in asked.logit_bias]),
            RepetitionPenaltyLogitsProcessor(1.3),
        ]
    )
    for seed in range(10):
        logits = random_logits(seed)
        wanted = theirs(torch.tensor([prompt + answer]), logits[None].clone())[0]
        torch.testing.assert_close(bend(logits, slot), wanted)


def test_frequency_and_presence_penalties_count_the_answer_and_not_the_prompt() -> None:
    slot = new_slot(Sampling(frequency_penalty=0.5, presence_penalty=0.2), prompt=[1, 1, 2])
    logits = torch.zeros(6)
    assert bend(logits, slot).tolist() == [0.0] * 6
    for token in (3, 3, 4):
        slot.take(Token(token, 0.0))
    assert bend(logits, slot).tolist() == pytest.approx([0, 0, 0, -1.2, -0.7, 0])
    assert logits.tolist() == [0.0] * 6  # the model's own scores stay as they are


def test_what_is_chosen_follows_the_probabilities_that_are_left() -> None:
    asked = Sampling(0.8, top_p=0.9, min_p=0.02, seed=3)
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -4.0])
    slot = new_slot(asked)
    counts = Counter(pick(logits, slot) for _ in range(4000))
    for token, probability in enumerate(by_transformers(logits, asked).tolist()):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_the_likeliest_tokens_are_told_under_the_models_own_distribution() -> None:
    logits = random_logits(1)
    slot = new_slot(Sampling(1.5, top_k=2, seed=1, likeliest=4, logit_bias=((7, 50.0),)))
    choose(logits, slot)
    (token,) = slot.tokens
    own = logits.log_softmax(-1)
    best = own.topk(4)
    assert token.id == 7
    assert token.logprob == pytest.approx(float(own[7]), abs=1e-5)
    assert [number for number, _ in token.likeliest] == best.indices.tolist()
    assert [value for _, value in token.likeliest] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_logits_that_are_no_numbers_end_nothing() -> None:
    assert 0 <= choose(torch.full((8,), math.nan), new_slot(Sampling(1.0, top_p=0.5, typical_p=0.5))) < 8


ASKED = {
    "greedy": Sampling(),
    "greedy, told": Sampling(likeliest=3),
    "repetition": Sampling(repetition_penalty=1.8),
    "counted": Sampling(frequency_penalty=1.5, presence_penalty=0.5, likeliest=5),
    "biased": Sampling(logit_bias=((70, 9.0), (71, 8.5))),
    "hot": Sampling(1.6, seed=4),
    "cut": Sampling(1.4, top_k=40, top_p=0.9, seed=5, likeliest=1),
    "min": Sampling(1.9, min_p=0.2, seed=6),
    "typical": Sampling(1.2, typical_p=0.6, repetition_penalty=1.1, seed=7),
}


async def answer(engine: Any, ids: list[int], asked: Sampling) -> list[Token]:
    return [token async for token in engine.generate(ids, 24, asked)]


@pytest.fixture(scope="module")
def prompt(served: Any) -> list[int]:
    return render(served.tokenizer, [{"role": "user", "content": "the sea " * 30}], True)


def test_neighbours_with_other_settings_never_change_an_answer(served: Any, prompt: list[int]) -> None:
    alone = {name: asyncio.run(answer(served.engine, prompt, asked)) for name, asked in ASKED.items()}

    async def all_at_once() -> list[list[Token]]:
        return await asyncio.gather(*(answer(served.engine, prompt, asked) for asked in ASKED.values()))

    for name, crowded in zip(ASKED, asyncio.run(all_at_once()), strict=True):
        assert [token.id for token in crowded] == [token.id for token in alone[name]], name
        for mine, before in zip(crowded, alone[name], strict=True):
            assert mine.logprob == pytest.approx(before.logprob, abs=1e-4)
            assert [number for number, _ in mine.likeliest] == [number for number, _ in before.likeliest]
            assert len(mine.likeliest) == ASKED[name].likeliest
    told = [tuple(token.id for token in said) for said in alone.values()]
    assert len(set(told)) == len(told) - 1  # each setting says something else, but for the two greedy ones


def test_a_whole_answer_is_what_generate_says_with_the_same_penalty(served: Any, prompt: list[int]) -> None:
    model, ends = served.engine.model, served.desk.model.ends
    wanted = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, repetition_penalty=1.8,
        max_new_tokens=24, eos_token_id=ends, pad_token_id=ends[0],
    )  # fmt: skip
    mine = asyncio.run(answer(served.engine, prompt, ASKED["repetition"]))
    assert [token.id for token in mine] == wanted[0, len(prompt) :].tolist()


def test_a_bias_for_a_token_that_is_not_there_is_refused_and_ends_nobody(served: Any, prompt: list[int]) -> None:
    with pytest.raises(EngineFailed, match="token id 99999") as refused:
        asyncio.run(answer(served.engine, prompt, Sampling(logit_bias=((99_999, 1.0),))))
    assert refused.value.status == 422
    assert served.engine.trouble is None
    assert served.engine.running == 0
