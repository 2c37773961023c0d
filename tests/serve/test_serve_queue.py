"""Places and their queue: nobody is lost, nobody is overtaken, and who asks too much is told when to come back."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from easyllm.serve.door.access import Access
from easyllm.serve.door.admission import Queue
from easyllm.serve.door.ratelimits import RateLimits
from easyllm.serve.refusals import Refused
from serving_doors import FIRST, Doored, doored, wait_until, write_keys


@pytest.fixture(scope="module")
def narrow(served: Any) -> Iterator[Doored]:
    """One place, and room for twelve who wait."""
    with doored(served.desk.loaded, concurrent_requests=1, queued_requests=12) as door:
        yield door


async def waiter(queue: Queue, name: str, order: list[str], count: int = 1) -> None:
    async with queue.place(count):
        order.append(name)
        await asyncio.sleep(0)


def test_places_are_given_in_order_and_one_who_stops_waiting_is_skipped() -> None:
    async def story() -> list[str]:
        queue, order = Queue(1, 10), []
        queue.running += 1
        tasks = [asyncio.create_task(waiter(queue, name, order)) for name in "abcd"]
        await asyncio.sleep(0)
        assert queue.waiting == 4
        tasks[1].cancel()
        queue.leave()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (queue.running, queue.waiting) == (0, 0)
        return order

    assert asyncio.run(story()) == ["a", "c", "d"]


def test_a_place_is_not_lost_with_one_who_goes_away_in_the_moment_it_gets_it() -> None:
    async def story() -> list[str]:
        queue, order = Queue(1, 10), []
        queue.running += 1
        first = asyncio.create_task(waiter(queue, "first", order))
        second = asyncio.create_task(waiter(queue, "second", order))
        await asyncio.sleep(0)
        queue.leave()  # first has the place now, and has not run since
        first.cancel()
        await asyncio.wait_for(second, 5)
        assert first.cancelled()
        assert queue.running == 0
        return order

    assert asyncio.run(story()) == ["second"]


def test_a_request_for_several_answers_is_not_starved_by_small_ones() -> None:
    async def story() -> list[str]:
        queue, order = Queue(2, 10), []
        queue.running += 1
        tasks = [asyncio.create_task(waiter(queue, "large", order, 2))]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(waiter(queue, "small", order)))  # would fit at once
        await asyncio.sleep(0)
        assert order == []
        queue.leave()
        await asyncio.gather(*tasks)
        assert queue.running == 0
        return order

    assert asyncio.run(story()) == ["large", "small"]


def test_a_full_queue_refuses_and_an_ending_server_sends_everybody_away() -> None:
    async def story() -> None:
        queue, order = Queue(1, 1), []
        queue.running += 1
        task = asyncio.create_task(waiter(queue, "waits", order))
        await asyncio.sleep(0)
        with pytest.raises(Refused) as full:
            async with queue.place():
                pass
        assert full.value.status == 429
        assert 1 <= int(full.value.headers()["Retry-After"]) <= 60
        queue.send_away(Refused(503, "ending"))
        with pytest.raises(Refused, match="ending"):
            await task
        assert (queue.running, queue.waiting, order) == (1, 0, [])

    asyncio.run(story())


def test_many_clients_are_all_answered_in_the_order_in_which_they_came(narrow: Doored) -> None:
    ended: list[int] = []

    def ask(number: int) -> int:
        status = narrow.ask(tokens=(40, 2)[number % 2]).status_code  # long and short ones mixed
        ended.append(number)
        return status

    narrow.desk.queue.running += 1
    with ThreadPoolExecutor(12) as pool:
        asked = []
        for number in range(12):
            asked.append(pool.submit(ask, number))
            assert wait_until(lambda: narrow.desk.queue.waiting == len(asked))
        full = narrow.ask()
        full_for_openai = narrow.ask("/v1/chat/completions")
        give_back(narrow)
        assert [one.result() for one in asked] == [200] * 12
    assert sorted(ended) == list(range(12))
    # two neighbours' threads may note their ends in the other order, a place in the queue apart
    assert all(abs(place - number) <= 1 for place, number in enumerate(ended)), ended
    assert (full.status_code, full.json()["error_type"]) == (429, "overloaded")
    assert full_for_openai.json()["error"]["type"] == "rate_limit_error"
    assert int(full_for_openai.headers["retry-after"]) >= 1
    assert narrow.desk.running == narrow.desk.queue.waiting == 0


def give_back(door: Doored) -> None:
    """The place taken by the test, given back where the queue lives: in the server's own thread."""
    loop = door.desk.queue._waiting[0][0].get_loop()
    loop.call_soon_threadsafe(door.desk.queue.leave)


def test_waiting_is_measured_and_a_client_that_goes_leaves_the_queue(narrow: Doored) -> None:
    narrow.desk.queue.running += 1
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(narrow.ask)
        assert wait_until(lambda: narrow.desk.queue.waiting == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{narrow.url}/generate", json={"inputs": "a"}, timeout=httpx.Timeout(60, read=0.3), trust_env=False
            )
        assert wait_until(lambda: narrow.desk.queue.waiting == 1), "the one that went still waits"
        time.sleep(0.2)
        give_back(narrow)
        answer = patient.result()
    assert int(answer.headers["x-queue-time"]) >= 400
    assert int(answer.headers["x-inference-time"]) < int(answer.headers["x-total-time"])
    assert narrow.desk.running == 0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_refused_with_the_real_wait_and_let_in_after_it() -> None:
    clock = Clock()
    rates = RateLimits(2, None, clock)
    for _ in range(2):
        rates.admit("alice", 1, 10)
    with pytest.raises(Refused, match=r"2 requests per minute.*30 s") as refused:
        rates.admit("alice", 1, 10)
    assert refused.value.headers() == {"Retry-After": "30"}
    rates.admit("bob", 1, 10)  # another's bucket
    clock.now += 29.9
    with pytest.raises(Refused):
        rates.admit("alice", 1, 10)
    clock.now += 0.1
    rates.admit("alice", 1, 10)


def test_tokens_of_answers_are_paid_for_before_the_next_request() -> None:
    clock = Clock()
    rates = RateLimits(None, 60, clock)
    rates.admit("alice", 1, 20)
    rates.charge("alice", 100)  # 60 in debt
    with pytest.raises(Refused, match="60 tokens per minute") as refused:
        rates.admit("alice", 1, 20)
    assert refused.value.retry_after == 80
    clock.now += 80
    rates.admit("alice", 1, 20)
    clock.now += 3600
    rates.admit("alice", 1, 1000)  # more than ever fits: it waits for a full bucket, and is not refused for ever


def test_rates_count_by_key_and_are_told_in_both_dialects(served: Any, tmp_path: Any) -> None:
    access = Access(keys_file=write_keys(tmp_path), requests_per_minute=2)
    with doored(served.desk.loaded, access) as door:
        assert [door.ask(key=FIRST, tokens=1).status_code for _ in range(2)] == [200, 200]
        tgi, openai = door.ask(key=FIRST), door.ask("/v1/completions", FIRST, json={"prompt": "a"})
        assert (tgi.status_code, tgi.json()["error_type"]) == (429, "overloaded")
        assert openai.json()["error"]["code"] == "rate_limit_exceeded"
        assert 20 < int(openai.headers["retry-after"]) <= 30
        assert door.ask(key="second-key-of-the-tests-0002", tokens=1).status_code == 200
        assert door.get("/info", FIRST).status_code == 200, "only what computes is counted"


def test_tokens_count_in_a_live_server(served: Any) -> None:
    with doored(served.desk.loaded, Access(tokens_per_minute=30)) as door:
        statuses = []
        while 429 not in statuses and len(statuses) < 31:
            last = door.ask(tokens=8)
            statuses.append(last.status_code)
        assert statuses[0] == 200
        assert last.status_code == 429, statuses
        assert "30 tokens per minute" in last.json()["error"]
        assert 1 <= int(last.headers["retry-after"]) <= 60


def test_a_prompt_that_is_scored_and_answered_is_charged_once(served: Any) -> None:
    with doored(served.desk.loaded, Access(tokens_per_minute=30)) as door:
        prompt = list(range(5, 25))
        scored = {"prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 1}
        assert door.ask("/v1/completions", json=scored).status_code == 200
        assert door.ask("/v1/completions", json={"prompt": prompt, "max_tokens": 1}).status_code == 429
