"""A budget is never passed, whatever is under way, and what is left is told."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asking import answers_to, ask_all, kept, question, teacher_job
from easyllm.core.stage import Job
from easyllm.instruct.ask import Answer, BudgetSpent
from easyllm.instruct.config import InstructConfig, Price
from easyllm.instruct.teacher.ledger import Totals, cost
from easyllm.instruct.teacher.open import open_teacher
from misbehaving_teacher import Teacher, misbehaving_teacher

PRICE = {"prompt": 2.0, "completion": 8.0, "cached_prompt": 0.5}


@pytest.fixture
def slow() -> Iterator[Teacher]:
    with misbehaving_teacher(delay=0.02, errors=0.1, storm=0.1, cut=0.05, key="k") as teacher:
        yield teacher


def spend(job: Job[InstructConfig], count: int = 100) -> tuple[list[Answer], BudgetSpent, Totals]:
    """(answers heard, what is spent, totals) of a run that a budget stops."""
    heard: list[Answer] = []

    async def run() -> tuple[BudgetSpent, Totals]:
        async with open_teacher(job, kept(job)) as client:
            try:
                await ask_all(client, [question(number) for number in range(count)], heard)
            except BudgetSpent as error:
                spent = error
        return spent, client.totals()

    return heard, *asyncio.run(run())


def job_of(folder: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch, **budget: Any) -> Job[InstructConfig]:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    return teacher_job(folder, teacher.url, concurrency=16, retries=20, timeout_seconds=5, price=PRICE, budget=budget)


@pytest.mark.parametrize("budget", [{"requests": 40}, {"tokens": 8_000}, {"money": 0.04}], ids=lambda b: next(iter(b)))
def test_no_budget_is_ever_passed(
    tmp_path: Path, slow: Teacher, monkeypatch: pytest.MonkeyPatch, budget: dict[str, Any]
) -> None:
    name, limit = next(iter(budget.items()))
    job = job_of(tmp_path, slow, monkeypatch, **budget)
    heard, spent, totals = spend(job)
    paid = slow.count()
    told = {
        "requests": paid["requests"],
        "tokens": paid["prompt_tokens"] + paid["completion_tokens"],
        "money": (2 * paid["prompt_tokens"] + 8 * paid["completion_tokens"]) / 1e6,
    }
    assert 0 < told[name] <= limit
    assert limit * 0.8 < spent.spent <= limit  # what cannot be known is counted at its worst
    assert (spent.what, spent.limit) == (name, limit)
    assert 0 < len(heard) <= totals.answered
    again, _, later = spend(job)  # what is kept is heard, and hardly anything is left to spend
    assert later.requests - totals.requests <= 2
    assert again[: len(heard)] == heard


def test_a_larger_budget_goes_on_where_the_smaller_one_stopped(
    tmp_path: Path, slow: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, first = spend(job_of(tmp_path, slow, monkeypatch, requests=20), count=25)
    asks = [question(number) for number in range(25)]
    answers, totals = answers_to(job_of(tmp_path, slow, monkeypatch, requests=200), asks)
    assert len(answers) == totals.answered == 25
    assert totals.requests - first.requests < 25
    assert totals.replayed == first.answered


def test_money_counts_the_cached_part_of_a_prompt_at_its_own_price() -> None:
    assert cost(Price(**PRICE), prompt=1000, completion=100, cached=400) == pytest.approx(0.0022)
    assert cost(Price(prompt=2, completion=8), 1000, 100, 400) == pytest.approx(0.0028)
    assert cost(None, 1000, 100) == 0.0
