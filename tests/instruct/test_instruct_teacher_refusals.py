"""What retries do not mend is told once, with a code and what to do; what is wrong in the recipe, before that."""

from pathlib import Path
from typing import Any

import pytest

from asking import answers_to, kept, question, teacher_job
from easyllm.core.errors import StageFailed, UserError
from easyllm.instruct.teacher.checks import teacher_problems
from easyllm.instruct.teacher.endpoint import pause_asked
from misbehaving_teacher import misbehaving_teacher

SOME = [question(number) for number in range(6)]
REMOTE = {"base_url": "https://teacher.example/v1", "model": "any"}


@pytest.mark.parametrize(
    ("code", "teacher", "settings", "most"),
    [
        ("INSTRUCT-029", {"always": 403}, {}, 1),
        ("INSTRUCT-030", {"model": "another"}, {}, 1),
        ("INSTRUCT-031", {"always": 400, "code": "context_length_exceeded"}, {}, 1),
        ("INSTRUCT-033", {"no_choices": True}, {"retries": 0}, 1),
        ("INSTRUCT-034", {"always": 503}, {"retries": 1}, 7),
        ("INSTRUCT-034", {"cut": 1.0}, {"retries": 1}, 7),
        ("INSTRUCT-034", {"delay": 1.0}, {"retries": 0, "timeout_seconds": 0.3}, 1),
        ("INSTRUCT-035", {"always": 429, "code": "insufficient_quota"}, {}, 1),
        ("INSTRUCT-035", {"always": 429, "retry_after": 3600}, {}, 1),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_retries_do_not_mend_is_told_once(
    tmp_path: Path, code: str, teacher: dict[str, Any], settings: dict[str, Any], most: int
) -> None:
    with misbehaving_teacher(**teacher) as running:
        with pytest.raises((UserError, StageFailed), match=code) as told:
            answers_to(teacher_job(tmp_path, running.url, concurrency=1, **settings), SOME)
        assert running.count()["requests"] <= most
    assert running.url in str(told.value)
    assert (kept(teacher_job(tmp_path)) / "answers.jsonl").read_bytes() == b""


def test_nobody_at_the_address_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"INSTRUCT-032.*127\.0\.0\.1:9/v1"):
        answers_to(teacher_job(tmp_path, "http://127.0.0.1:9/v1"), SOME)


def test_a_prompt_that_a_filter_refuses_is_an_answer_without_text(tmp_path: Path) -> None:
    with misbehaving_teacher(always=400, code="content_filter") as teacher:
        answers, totals = answers_to(teacher_job(tmp_path, teacher.url), SOME)
    assert {(answer.text, answer.finish_reason) for answer in answers} == {("", "content_filter")}
    assert totals.tokens == 0


def test_a_pause_is_read_as_the_endpoint_says_it() -> None:
    assert pause_asked({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert pause_asked({"retry-after": "2.5"}) == 2.5
    assert pause_asked({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert pause_asked({"retry-after": "soon"}) is None
    assert pause_asked({}) is None


@pytest.mark.parametrize(
    ("code", "settings"),
    [
        ("INSTRUCT-020", {}),
        ("INSTRUCT-020", REMOTE | {"local": "model"}),
        ("INSTRUCT-021", {"base_url": "https://u:secret@teacher.example/v1", "model": "any"}),
        ("INSTRUCT-021", {"base_url": "teacher.example/v1", "model": "any"}),
        ("INSTRUCT-022", {"base_url": "http://127.0.0.1:9/v1"}),
        ("INSTRUCT-023", {"local": "model", "model": "any"}),
        ("INSTRUCT-024", REMOTE | {"key_variable": "EASYLLM_NO_SUCH_VARIABLE"}),
        ("INSTRUCT-025", REMOTE | {"key_variable": "EASYLLM_TWO_LINES"}),
        ("INSTRUCT-026", {"base_url": "http://127.0.0.1:9/v1", "model": "any", "concurrency": 80}),
        ("INSTRUCT-027", REMOTE | {"budget": {"money": 1.0}}),
        ("INSTRUCT-036", {"local": "model", "max_tokens": 200}),
        ("INSTRUCT-037", REMOTE | {"budget": {"tokens": 1000}}),
        ("INSTRUCT-037", REMOTE | {"budget": {"money": 0.005}, "price": {"prompt": 1, "completion": 5}}),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_work_is_told_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "anything")
    monkeypatch.setenv("EASYLLM_TWO_LINES", "one\ntwo")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 256}')
    found = teacher_problems(teacher_job(tmp_path, **settings))
    assert code in [entry.code for entry in found]
    assert "secret" not in str(found)
    for entry in found:
        assert entry.what
        assert entry.fix


def test_what_works_has_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "recorded.jsonl").write_text("")
    loopback = teacher_job(tmp_path, "http://127.0.0.1:9/v1", budget={"tokens": 100_000})
    replayed = teacher_job(tmp_path, **REMOTE, recorded=["recorded.jsonl"])
    assert teacher_problems(loopback) == teacher_problems(replayed) == []
