"""Servers that are not ours: answers in the shape that vLLM's source writes, and servers that do not fit.

The one stand-in of these tests: it says what it is told to, so that each way of not fitting can be met.
"""

import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.chat import load_tokenizer
from easyllm.core.errors import UserError
from easyllm.serve import checks
from easyllm.serve.contract import EngineFailed, Remote, Sampling, Token
from easyllm.serve.engines.embedded import greedy_tokens
from easyllm.serve.limits import Limits
from strangers import Stranger, handler

LIMITS = Limits(total_tokens=200, input_tokens=150, concurrent_requests=3)


@pytest.fixture
def stranger(serve_model: Path) -> Iterator[Stranger]:
    found = Stranger(load_tokenizer(serve_model))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


Meet = Callable[..., Any]


@pytest.fixture
def meet(stranger: Stranger, serve_model: Path) -> Iterator[Meet]:
    """``meet()``: the engine that stands behind ours, once it has introduced itself."""
    from easyllm.serve.engines.remote import load_remote

    engines = []

    def call(**settings: Any) -> Any:
        loaded = load_remote(serve_model, "tiny", LIMITS, Remote(stranger.url, **settings))
        engines.append(loaded.voice.engine)
        return engines[-1]

    yield call
    for engine in engines:
        engine.stop()


def test_several_tokens_in_one_event_are_told_one_by_one(stranger: Stranger, meet: Meet) -> None:
    engine = meet()
    assert greedy_tokens(engine, [70, 71], 8) == stranger.answer
    asked = stranger.asked[-1]
    assert (asked["model"], asked["prompt"], asked["max_tokens"]) == ("base", [70, 71], 8)
    assert (asked["ignore_eos"], asked["stop_token_ids"]) == (True, [0, 2])
    assert (asked["return_token_ids"], asked["logprobs"], asked["stream"]) == (True, 0, True)


def test_tokens_after_the_end_token_are_not_told(stranger: Stranger, meet: Meet) -> None:
    engine = meet()
    stranger.answer = [80, 2, 81, 82]
    assert greedy_tokens(engine, [70], 8) == [80, 2]


def test_a_model_of_our_own_name_is_preferred_to_the_first(stranger: Stranger, meet: Meet) -> None:
    stranger.cards.append({"id": "tiny", "parent": "base"})
    greedy_tokens(meet(), [70], 8)
    assert stranger.asked[-1]["model"] == "tiny"


def test_an_answer_that_stops_halfway_is_a_failure_not_an_end(stranger: Stranger, meet: Meet) -> None:
    engine = meet()
    with pytest.raises(EngineFailed, match="before its end") as failed:
        greedy_tokens(engine, [70], 30)
    assert failed.value.status == 502
    stranger.answer, stranger.error = [80, 81], {"error": {"message": "CUDA out of memory", "code": 500}}
    with pytest.raises(EngineFailed, match="CUDA out of memory"):
        greedy_tokens(engine, [70], 30)


@pytest.mark.parametrize(
    ("status", "body", "seen", "words"),
    [
        (400, {"error": {"message": "top_k is odd"}}, 502, "400: top_k is odd"),
        (429, {"error": "slow down"}, 429, "overloaded"),
        (500, {"detail": "boom"}, 502, "500: boom"),
        (503, {"message": "starting"}, 503, "503: starting"),
    ],
)
def test_what_it_says_against_a_request_becomes_a_status_of_ours(
    stranger: Stranger, meet: Meet, status: int, body: Any, seen: int, words: str
) -> None:
    engine = meet()
    stranger.status = (status, body)
    with pytest.raises(EngineFailed, match=words) as failed:
        greedy_tokens(engine, [70], 8)
    assert failed.value.status == seen


def test_the_key_is_sent_and_never_told(
    stranger: Stranger, meet: Meet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger.key = "sk-right"
    monkeypatch.setenv("REMOTE_KEY", "sk-right\n")  # as read from a file
    assert greedy_tokens(meet(key_variable="REMOTE_KEY"), [70], 8) == stranger.answer
    monkeypatch.setenv("REMOTE_KEY", "sk-wrong")
    with pytest.raises(UserError, match=r"SERVE-034.*401.*\*\*\*") as refused:
        meet(key_variable="REMOTE_KEY")
    assert "sk-" not in str(refused.value) + capsys.readouterr().err
    monkeypatch.delenv("REMOTE_KEY")
    with pytest.raises(UserError, match="SERVE-033"):
        meet(key_variable="REMOTE_KEY")


def test_a_key_that_no_header_can_hold_is_not_blamed_on_the_server(
    meet: Meet, serve_model: Path, serve_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMOTE_KEY", "schlüssel")
    with pytest.raises(UserError, match=r"SERVE-033 .*REMOTE_KEY.*outside ASCII"):
        meet(key_variable="REMOTE_KEY")
    job = serve_job(serve_model, engine="remote", remote="http://vllm:8000/v1", remote_key_variable="REMOTE_KEY")
    (entry,) = checks.check(job)
    assert entry.code == "SERVE-033"
    assert "schlüssel" not in str(entry)


def test_a_server_that_returns_text_only_is_refused(stranger: Stranger, meet: Meet) -> None:
    stranger.with_ids = False
    with pytest.raises(UserError, match=r"SERVE-034.*return_token_ids"):
        meet()


def test_a_server_that_reads_more_tokens_than_were_sent_is_refused(stranger: Stranger, meet: Meet) -> None:
    stranger.prompt_tokens = 1000
    with pytest.raises(UserError, match=r"SERVE-034.*1000 tokens"):
        meet()


def test_a_server_without_a_model_or_that_speaks_something_else_is_refused(stranger: Stranger, meet: Meet) -> None:
    stranger.cards = []
    with pytest.raises(UserError, match=r"SERVE-034.*no model"):
        meet()
    stranger.cards = [{"name": "no id"}]
    with pytest.raises(UserError, match=r"SERVE-034.*not the OpenAI API"):
        meet()


def test_another_vocabulary_is_refused(stranger: Stranger, meet: Meet) -> None:
    stranger.text = "Bonjour"
    with pytest.raises(UserError, match=r"SERVE-035.*Bonjour"):
        meet()


def test_an_engine_that_takes_fewer_tokens_than_we_promise_is_refused(stranger: Stranger, meet: Meet) -> None:
    stranger.cards[0]["max_model_len"] = 128
    with pytest.raises(UserError, match=r"SERVE-036.*200.*128"):
        meet()


def test_a_model_exchanged_behind_our_back_has_to_introduce_itself(
    stranger: Stranger, meet: Meet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyllm.serve.engines import remote

    monkeypatch.setattr(remote, "LOOK_EVERY_SECONDS", 0.05)
    engine = meet()
    stranger.status, stranger.text = (404, {"error": "no such model"}), "Bonjour"
    with pytest.raises(EngineFailed, match="no such model"):
        greedy_tokens(engine, [70], 8)
    stranger.status = None
    assert engine.trouble  # it fits no more
    stranger.text = None
    for _ in range(200):
        if engine.trouble is None:
            break
        threading.Event().wait(0.05)
    assert greedy_tokens(engine, [70], 8) == stranger.answer


def test_no_sampling_setting_is_lost(stranger: Stranger, meet: Meet) -> None:
    import asyncio

    engine = meet()

    async def collect() -> list[Token]:
        return [token async for token in engine.generate([70], 8, Sampling(0.7, 0.9, 40, 3))]

    assert [token.logprob for token in asyncio.run(collect())] == [-0.5] * 8
    asked = stranger.asked[-1]
    assert (asked["temperature"], asked["top_p"], asked["top_k"], asked["seed"]) == (0.7, 0.9, 40, 3)
