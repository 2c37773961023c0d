"""A worker that dies takes its requests along, and no more than that: a new one answers, or it is said why not."""

import asyncio
import threading
from typing import Any

import httpx
import pytest

from easyllm.core.errors import StageFailed
from easyllm.serve.contract import Engine, EngineFailed, Sampling
from easyllm.serve.engines.embedded import MOST_CRASHES, references_of, require_same_words
from easyllm.serve.limits import Limits
from watched_engine import ENDS, answer, becomes, failing, prompt_of, watched

LIMITS = Limits(total_tokens=400, input_tokens=300, concurrent_requests=4)
PROMPT = prompt_of(1, 40)


def test_after_a_failed_pass_a_new_worker_answers_as_the_old_one_did(
    long_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    proven: list[str | None] = []
    references = references_of(long_model, [PROMPT], ENDS)

    def prove(engine: Engine) -> None:
        proven.append(engine.trouble)  # nobody is let in until it has been proven
        require_same_words(engine, [PROMPT], references)

    with watched(long_model, LIMITS, prove=prove) as found:
        wanted = found.say(PROMPT, 20)
        dead = found.engine._manager

        async def crowd() -> list[Any]:
            asks = [answer(found.engine, prompt_of(number, 50), 100, Sampling()) for number in range(6)]
            return await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 30)

        with failing(long_model, passes=1):
            lost = asyncio.run(crowd())
        assert all(isinstance(error, EngineFailed) and error.status in (500, 503) for error in lost)
        assert "the device is lost" in str(lost[0])
        assert becomes(lambda: found.engine.restarts == 1)  # its trouble may not be known yet when the requests fail
        assert found.engine.trouble is None
        assert len(proven) == 1
        assert "restarting" in str(proven[0])
        assert found.engine._manager is not dead
        assert dead.batch_processor is None  # its cache is free
        assert found.engine.running == 0
        assert [token.id for token in found.say(PROMPT, 20)] == [token.id for token in wanted]
    assert "answers again" in capsys.readouterr().err


def test_a_worker_that_dies_again_and_again_stays_down_and_says_why(long_model: Any) -> None:
    references = references_of(long_model, [PROMPT], ENDS)

    def prove(engine: Engine) -> None:
        require_same_words(engine, [PROMPT], references)

    with watched(long_model, LIMITS, prove=prove) as found:
        with failing(long_model, passes=1000) as failed:
            with pytest.raises(EngineFailed):
                found.say(PROMPT)
            assert becomes(lambda: "stays down" in str(found.engine.trouble))
            assert "the device is lost" in str(found.engine.trouble)
            assert len(failed) == MOST_CRASHES + 1
        with pytest.raises(EngineFailed, match="stays down") as refused:
            found.say(PROMPT)
        assert refused.value.status == 503


def test_a_request_that_came_too_late_for_the_worker_to_fail_it_is_told_the_same_reason(
    long_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(long_model, LIMITS) as found:
        # Between its last look at the queue and its end, a worker can take a request and never speak of it again.
        monkeypatch.setattr(found.engine._manager, "_fail_all_remaining_requests", lambda *told: None)
        with failing(long_model, passes=1), pytest.raises(EngineFailed, match="the device is lost"):
            found.say(PROMPT)
        assert becomes(lambda: found.engine.restarts == 1)


def test_a_new_worker_with_other_words_is_not_let_in(long_model: Any) -> None:
    def prove(engine: Engine) -> None:
        raise StageFailed("SERVE-013 it says other words")

    with watched(long_model, LIMITS, prove=prove) as found:
        with failing(long_model, passes=1), pytest.raises(EngineFailed):
            found.say(PROMPT)
        assert becomes(lambda: "other words" in str(found.engine.trouble) and "stays down" in str(found.engine.trouble))


def test_a_proof_that_breaks_is_a_failed_try(long_model: Any) -> None:
    def prove(engine: Engine) -> None:
        raise ZeroDivisionError("no sums today")

    with watched(long_model, LIMITS, prove=prove) as found:
        with failing(long_model, passes=1), pytest.raises(EngineFailed):
            found.say(PROMPT)
        assert becomes(lambda: "stays down" in str(found.engine.trouble))
        assert "no sums today" in str(found.engine.trouble)


def test_health_says_503_until_the_new_worker_has_been_proven(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proven = threading.Event()
    real = served.engine._prove

    def prove_later(engine: Engine) -> None:
        assert proven.wait(90)
        real(engine)

    monkeypatch.setattr(served.engine, "_prove", prove_later)
    ask = {"inputs": "a", "parameters": {"max_new_tokens": 5}}
    restarts = served.engine.restarts
    try:
        with failing(served.engine.model, passes=1):
            lost = httpx.post(f"{served.url}/generate", json=ask, trust_env=False, timeout=60)
        assert lost.status_code == 424
        assert lost.json()["error_type"] == "generation"
        assert becomes(lambda: httpx.get(f"{served.url}/health", trust_env=False).status_code == 503)
        refused = httpx.post(f"{served.url}/generate", json=ask, trust_env=False, timeout=60)
        assert refused.status_code == 503
        assert "restarting" in refused.json()["error"]
    finally:
        proven.set()  # other tests ask this server too
    assert becomes(lambda: httpx.get(f"{served.url}/health", trust_env=False).status_code == 200)
    assert httpx.post(f"{served.url}/generate", json=ask, trust_env=False, timeout=60).status_code == 200
    seen = httpx.get(f"{served.url}/metrics", trust_env=False).text
    assert f"easyllm_engine_restarts_total {restarts + 1}.0" in seen
