"""A teacher that misbehaves is asked until it answers, nothing is paid twice, and the books are right."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asking
from asking import answers_to, ask_all, kept, question, teacher_job
from easyllm.core.errors import UserError
from easyllm.instruct.teacher.client import answer_of
from easyllm.instruct.teacher.endpoint import Said, said_by
from easyllm.instruct.teacher.ledger import Totals, Worst
from easyllm.instruct.teacher.open import open_teacher
from easyllm.instruct.teacher.turns import Turns
from misbehaving_teacher import MISBEHAVING, Teacher, misbehaving_teacher

PATIENT = {"retries": 20, "timeout_seconds": 3, "concurrency": 16}


@pytest.fixture(scope="module")
def good() -> Iterator[Teacher]:
    """A teacher that only answers."""
    with misbehaving_teacher() as teacher:
        yield teacher


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_teacher_that_misbehaves_is_asked_until_it_answers(tmp_path: Path) -> None:
    asks = [question(number) for number in range(120)]
    price = {"prompt": 2.0, "completion": 8.0, "cached_prompt": 0.5}
    with misbehaving_teacher(**MISBEHAVING, slow_seconds=0.2, cached=0.25) as teacher:
        answers, totals = answers_to(teacher_job(tmp_path, teacher.url, price=price, **PATIENT), asks)
        count = teacher.count()
    assert [answer.key for answer in answers] == [ask.key("tester") for ask in asks]
    assert totals.requests == count["requests"] > 120
    assert totals.answered == count["delivered"] == 120
    by_status = {"200": 120} | totals.failed
    assert by_status == count["by_status"]
    assert {"429", "cut"} < set(totals.failed)
    prompt, completion, cached = (count[f"{name}_tokens"] for name in ("prompt", "completion", "cached"))
    assert (totals.prompt_tokens, totals.completion_tokens, totals.cached_tokens) == (prompt, completion, cached)
    assert totals.money == pytest.approx((2 * (prompt - cached) + 0.5 * cached + 8 * completion) / 1e6)
    assert count["keys_billed_twice"] == count["keys_delivered_twice"] == totals.lost == 0
    assert count["most_at_once"] <= 16
    assert any(answer.cut for answer in answers)
    assert sum(part.requests for part in totals.by_purpose.values()) == totals.requests


def test_three_kills_lose_no_answer_and_pay_none_twice(tmp_path: Path) -> None:
    """Each time the client is killed as hard as can be while it works; what it had written down is right."""
    with misbehaving_teacher(**MISBEHAVING, delay=0.02, slow_seconds=0.2) as teacher:
        command = [sys.executable, asking.__file__, str(tmp_path), teacher.url, "100"]
        file = kept(teacher_job(tmp_path, teacher.url)) / "answers.jsonl"
        known: set[str] = set()
        for _ in range(3):
            enough, started = len(known) + 15, subprocess.Popen(command)
            while not file.is_file() or file.read_bytes().count(b"\n") < enough:
                assert started.poll() is None
                time.sleep(0.005)
            started.send_signal(signal.SIGKILL)
            started.wait()
            now = {json.loads(line)["key"] for line in file.read_bytes().split(b"\n")[:-1]}
            assert known < now
            known = now
        before = teacher.count()
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "100\n"
        time.sleep(0.1)
        count = teacher.count()
    totals = totals_of(tmp_path)
    assert count["keys_delivered_twice"] <= totals.lost  # none that had been kept: delivered, killed before the disk
    assert count["keys_billed_twice"] == 0
    assert count["delivered"] - before["delivered"] >= 100 - len(known) - totals.lost
    assert totals.requests - totals.lost <= count["requests"] <= totals.requests
    assert (
        totals.answered == count["keys_billed"] == len(lines(file)) == len({row["key"] for row in lines(file)}) == 100
    )
    assert (totals.prompt_tokens, totals.completion_tokens) == (count["prompt_tokens"], count["completion_tokens"])
    assert totals.requests == totals.answered + totals.lost + sum(totals.failed.values())
    for status in ("429", "500", "502", "503"):
        assert count["by_status"].get(status, 0) - totals.lost <= totals.failed.get(status, 0)
        assert totals.failed.get(status, 0) <= count["by_status"].get(status, 0)


def totals_of(folder: Path) -> Totals:
    """What the ledger says when it is opened again."""
    return answers_to(teacher_job(folder, "http://127.0.0.1:9/v1"), [])[1]


def test_a_recorded_run_is_had_again_with_the_teacher_gone(tmp_path: Path, good: Teacher) -> None:
    asks = [question(number) for number in range(40)]
    with misbehaving_teacher(**MISBEHAVING, slow_seconds=0.1) as teacher:
        job = teacher_job(tmp_path, teacher.url, **PATIENT)
        first, _ = answers_to(job, asks)
    (tmp_path / "again").mkdir()
    recorded = [str(kept(job) / "answers.jsonl")]
    again = teacher_job(tmp_path / "again", "http://127.0.0.1:9/v1", recorded=recorded)
    second, totals = answers_to(again, asks)
    assert second == first
    assert all(answer.replayed for answer in second)
    assert (totals.requests, totals.replayed) == (0, 40)
    assert (kept(again) / "answers.jsonl").read_bytes() == b""


def test_equal_requests_under_way_are_sent_once(tmp_path: Path, good: Teacher) -> None:
    before = good.count()["requests"]
    answers, totals = answers_to(teacher_job(tmp_path, good.url), [question(7, draw=1)] * 5)
    assert good.count()["requests"] == before + 1
    assert [answer.replayed for answer in answers] == [False, True, True, True, True]
    assert (totals.requests, totals.answered, totals.replayed) == (1, 1, 4)


def test_a_last_line_that_a_kill_cut_is_asked_again_and_a_line_broken_elsewhere_is_told(
    tmp_path: Path, good: Teacher
) -> None:
    job, asks = teacher_job(tmp_path, good.url), [question(number, draw=2) for number in range(3)]
    whole, _ = answers_to(job, asks)
    file = kept(job) / "answers.jsonl"
    text = file.read_bytes()
    file.write_bytes(text[:-20])
    found, totals = answers_to(job, asks)
    assert found == whole
    assert (totals.requests, totals.answered) == (4, 4)
    file.write_bytes(text[:-1])  # whole but for the line's end
    assert answers_to(job, asks)[1].requests == 4
    rows = text.splitlines(keepends=True)
    file.write_bytes(rows[0][:-9] + b"\n" + rows[1])
    with pytest.raises(UserError, match=r"ROWS-001.*answers.jsonl:1"):
        answers_to(job, asks)
    file.write_bytes(rows[0] + b'{"key": "x", "answer": {"text": 7}}\n' + rows[1])
    with pytest.raises(UserError, match=r"INSTRUCT-028.*answers.jsonl:2"):
        answers_to(job, asks)


def test_an_answer_kept_before_the_kill_and_missing_in_the_ledger_is_entered(tmp_path: Path, good: Teacher) -> None:
    job, asks = teacher_job(tmp_path, good.url), [question(1, draw=3)]
    _, whole = answers_to(job, asks)
    ledger = kept(job) / "ledger.jsonl"
    sent = ledger.read_bytes().splitlines(keepends=True)[0]
    ledger.write_bytes(sent + b'{"event": "answ')
    assert answers_to(job, asks)[1].as_json() == whole.as_json() | {"replayed": 1} | {
        "by_purpose": {"instructions": whole.as_json()["by_purpose"]["instructions"] | {"replayed": 1}}
    }
    (kept(job) / "answers.jsonl").write_bytes(b"")
    ledger.write_bytes(sent)
    totals = totals_of(tmp_path)
    assert (totals.requests, totals.answered, totals.lost) == (1, 0, 1)
    assert totals.unknown_tokens > 256


def test_an_interrupted_run_keeps_the_answers_that_are_on_their_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asks = [question(number) for number in range(30)]
    with misbehaving_teacher(delay=0.3) as teacher:
        job = teacher_job(tmp_path, teacher.url, concurrency=4)

        async def run() -> None:
            async with open_teacher(job, kept(job)) as client:
                await asyncio.wait_for(ask_all(client, asks), 0.45)

        with pytest.raises(TimeoutError):
            asyncio.run(run())
        count = teacher.count()
        totals = totals_of(tmp_path)
    assert count["requests"] == count["delivered"] == totals.requests == totals.answered == 8
    assert "Waiting for 4 answers" in capsys.readouterr().err


def test_an_endpoint_without_structured_output_is_asked_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with misbehaving_teacher(no_schema=True) as teacher:
        job = teacher_job(tmp_path, teacher.url, concurrency=4)
        answers, totals = answers_to(job, [question(number) for number in range(20)])
        count = teacher.count()
    assert not any(answer.structured for answer in answers)
    assert "1. " in answers[0].text or "json" in answers[0].text
    assert totals.answered == 20
    assert 1 <= totals.failed["400"] == count["by_status"]["400"] <= 4
    assert capsys.readouterr().err.count("no structured output") == 1


def test_with_structured_never_no_schema_is_sent(tmp_path: Path) -> None:
    with misbehaving_teacher(no_schema=True) as teacher:
        answers, totals = answers_to(teacher_job(tmp_path, teacher.url, structured="never"), [question(0)])
    assert (totals.requests, answers[0].structured) == (1, False)


def test_the_key_goes_to_the_teacher_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "sk-not-for-any-file-0123456789"
    monkeypatch.setenv("TEACHER_KEY", secret + "\n")  # as `cat` leaves it
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    settings = {"key_variable": "TEACHER_KEY", "concurrency": 4}
    with misbehaving_teacher(key=secret, errors=0.3) as teacher:
        job = teacher_job(tmp_path, teacher.url, **settings)
        answers, _ = answers_to(job, [question(number) for number in range(10)])
        assert len(answers) == 10
        monkeypatch.setenv("TEACHER_KEY", secret + "x")
        with pytest.raises(UserError, match=r"INSTRUCT-029.*TEACHER_KEY with 401.*\*\*\*") as told:
            answers_to(job, [question(99)])
    assert "sk-not" not in str(told.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 2
    assert not any(b"sk-not" in path.read_bytes() for path in files)
    assert "sk-not" not in "".join(capfd.readouterr())
    assert "sk-not" in os.environ["TEACHER_KEY"]


def test_a_request_sent_again_goes_before_those_that_came_after_it() -> None:
    """Answers are heard in the order of asking: one that queued behind everybody again would hold up all."""
    order: list[int] = []

    async def take(turns: Turns, number: int) -> None:
        async with turns.turn(number):
            order.append(number)
            await asyncio.sleep(0)

    async def run() -> None:
        turns = Turns(1)
        async with turns.turn(0):
            waiting = [asyncio.create_task(take(turns, number)) for number in (7, 9, 2, 8)]
            await asyncio.sleep(0)
            waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await take(turns, 10)

    asyncio.run(run())
    assert order == [2, 7, 8, 10]


def test_what_an_endpoint_does_not_count_is_counted_at_its_most() -> None:
    worst = Worst(prompt=900, completion=64, money=0.0)
    said = Said("灯塔", "stop", structured=False)
    assert answer_of("k", said, worst).prompt_tokens == 900
    assert answer_of("k", said, worst).completion_tokens == len("灯塔".encode())


def test_half_a_character_in_an_answer_can_be_kept(tmp_path: Path) -> None:
    reply = json.loads('{"choices": [{"message": {"content": "a\\ud83d b"}, "finish_reason": "stop"}]}')
    assert said_by(reply, structured=False).text == "a\ufffd b"


def test_tokens_spent_before_there_were_prices_are_priced_when_there_are(tmp_path: Path, good: Teacher) -> None:
    answers, before = answers_to(teacher_job(tmp_path, good.url), [question(1, draw=4)])
    priced = teacher_job(tmp_path, good.url, price={"prompt": 1, "completion": 1})
    assert before.money == 0
    assert answers_to(priced, [])[1].money == pytest.approx(before.tokens / 1e6)
    assert answers[0].prompt_tokens + answers[0].completion_tokens == before.tokens
