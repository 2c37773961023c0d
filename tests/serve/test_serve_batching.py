"""Long prompts and short ones, read once and shared fairly; and nothing stays behind of those who left."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from easyllm.serve.contract import Sampling
from easyllm.serve.engines.embedded import PREFILL_TOKENS, greedy_reference
from easyllm.serve.engines.scheduling import PATIENCE
from easyllm.serve.limits import PAGE_TOKENS, Limits
from watched_engine import ENDS, Watched, answer, becomes, prompt_of, watched

LIMITS = Limits(total_tokens=1800, input_tokens=1700, concurrent_requests=4)
LONG = prompt_of(1, 1500)


@pytest.fixture(scope="module")
def long_engine(long_model: Any) -> Iterator[Watched]:
    with watched(long_model, LIMITS) as found:
        yield found


@pytest.fixture
def engine(long_engine: Watched) -> Watched:
    """Nothing of the tests before is counted, or kept in its prefix cache."""
    long_engine.engine._manager.batch_processor.cache.evict_cached_blocks()
    long_engine.forget()
    return long_engine


def test_a_prompt_that_begins_alike_is_read_from_where_they_part(long_model: Any) -> None:
    second = [*LONG[:1450], *prompt_of(2, 50)]
    with watched(long_model, LIMITS, prefix_cache=False) as plain:
        wanted = [plain.say(LONG), plain.say(second), plain.say(second)]
        assert sum(plain.read) == 1500 + 7  # without the cache all is read again
        assert not plain.engine.prefix_cache
    with watched(long_model, LIMITS) as cached:
        assert cached.engine.prefix_cache
        said = [cached.say(LONG)]
        assert sum(cached.read) == 1500 + 7
        said.append(cached.say(second))
        assert sum(cached.read) == 1500 - 1450 // PAGE_TOKENS * PAGE_TOKENS + 7
        said.append(cached.say(second))
        assert sum(cached.read) == 1500 - 1499 // PAGE_TOKENS * PAGE_TOKENS + 7
    for mine, theirs in zip(said, wanted, strict=True):
        assert [token.id for token in mine] == [token.id for token in theirs]
        for token, other in zip(mine, theirs, strict=True):
            assert token.logprob == pytest.approx(other.logprob, abs=1e-5)
            assert dict(token.likeliest) == pytest.approx(dict(other.likeliest), abs=1e-5)
    assert [token.id for token in said[2]] == greedy_reference(long_model, second, 8, ENDS)


class Numbers:
    """Adapters that add nothing: only their numbers matter here."""

    def __init__(self) -> None:
        self.of = {"pirate": 1, "poet": 2}

    def take(self, name: str | None) -> int:
        return self.of[name] if name else 0

    def give_back(self, number: int) -> None:
        pass


def test_what_an_adapter_has_read_is_no_others_to_use(engine: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = 1500 + 7
    numbers = Numbers()
    monkeypatch.setattr(engine.engine, "shelf", numbers)
    engine.say(LONG)
    engine.say(LONG, adapter="pirate")
    assert sum(engine.read) == everything
    engine.say(LONG, adapter="poet")
    assert sum(engine.read) == everything
    for adapter in ("pirate", "poet", None):
        engine.say(LONG, adapter=adapter)
        assert sum(engine.read) < 100, adapter
    numbers.of["pirate"] = 3  # other weights have come under its name
    engine.say(LONG, adapter="pirate")
    assert sum(engine.read) == everything


def test_a_short_question_behind_a_long_prompt_is_answered_first(engine: Watched) -> None:
    async def both() -> None:
        long = asyncio.create_task(answer(engine.engine, LONG, 4, Sampling()))
        await asyncio.sleep(0)  # the long one is in the queue
        await answer(engine.engine, prompt_of(3, 20), 4, Sampling())
        await long

    asyncio.run(both())
    assert engine.passes_until_first_token(1) <= 2
    assert engine.passes_until_first_token(0) <= 2 + -(-1500 // PREFILL_TOKENS)
    assert max(engine.read) <= PREFILL_TOKENS


def test_a_long_prompt_is_read_in_the_end_whatever_short_ones_come(engine: Watched) -> None:
    async def crowd() -> None:
        long = asyncio.create_task(answer(engine.engine, LONG, 1, Sampling()))
        await asyncio.sleep(0)

        async def ask_on(place: int) -> None:
            number = 0
            while not long.done() and number < 60:
                number += 1
                await answer(engine.engine, prompt_of(1000 * place + number, 500), 1, Sampling())

        await asyncio.gather(long, *(ask_on(place) for place in (1, 2, 3)))

    asyncio.run(crowd())
    assert engine.passes_until_first_token(0) <= (PATIENCE + 1) * -(-1500 // PREFILL_TOKENS) + 3


def test_what_is_kept_of_old_prompts_makes_nobody_wait(long_model: Any) -> None:
    with watched(long_model, Limits(total_tokens=320, input_tokens=300, concurrent_requests=2)) as small:
        for number in range(8):
            small.say(prompt_of(10 + number, 300), 2)
        small.forget()

        async def both() -> None:
            never_ends = Sampling(logit_bias=tuple((end, -100.0) for end in ENDS))
            going_on = asyncio.create_task(answer(small.engine, prompt_of(30, 20), 250, never_ends))
            await asyncio.sleep(0.1)
            await answer(small.engine, prompt_of(31, 300), 4, Sampling())
            assert not going_on.done()
            await going_on

        asyncio.run(both())
        assert small.passes_until_first_token(1) <= 3


def test_two_hundred_requests_that_left_leave_nothing_behind(engine: Watched) -> None:
    one = engine.engine

    async def leave(number: int) -> None:
        tokens = one.generate(prompt_of(number, 30 + 7 * number % 600), 200, Sampling(1.0, seed=number), None)
        if number % 3:  # at its first token, or before it
            await anext(tokens)
            await tokens.aclose()
        else:
            waiting = asyncio.create_task(anext(tokens))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await tokens.aclose()

    async def crowd() -> None:
        for first in range(0, 200, 4):
            await asyncio.gather(*(leave(number) for number in range(first, first + 4)))

    asyncio.run(crowd())
    assert one.running == 0
    assert becomes(lambda: one.held_blocks == 0)
    assert not one._manager.output_router.result_handlers
    assert not one._open
    assert not one._manager.batch_processor.has_pending_requests()
    engine.say(LONG)
    assert becomes(lambda: one.held_blocks == 0)
