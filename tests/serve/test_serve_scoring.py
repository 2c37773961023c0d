"""Given tokens are scored as OpenAI's completions do it, so that an evaluation of a served model is the offline one."""

import asyncio
import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from easyllm.core.errors import UserError
from easyllm.serve.engines.scoring import score
from tiny_tune import make_job, publish, write_rows

QUESTIONS = [
    {"question": "the sea?", "choices": ["the ship", "go to the sea", "港口"], "answer": 1},
    {"question": "灯塔的光", "choices": ["慢慢熄灭", "the ship"], "answer": 0},
    {"question": "船", "choices": ["离开港口", "sea"], "answer": 0},
]
GENERATED = [{"prompt": text, "answer": "e", "match": "contains"} for text in ("the sea", "船离开", "the ship")]
ROWS = [{"instruction": "the sea", "output": "go to the ship"}, {"instruction": "灯塔", "output": "慢慢熄灭"}]


def ask(served: Any, **body: Any) -> Any:
    return httpx.post(f"{served.url}/v1/completions", json=body, trust_env=False, timeout=60)


def test_echo_tells_the_models_own_logprobs_of_the_prompt(served: Any) -> None:
    ids = served.tokenizer.encode("the sea and 灯塔")
    for prompt in (ids, [ids]):
        (choice,) = ask(served, prompt=prompt, max_tokens=1, temperature=0, echo=True, logprobs=2).json()["choices"]
        found = choice["logprobs"]
        assert choice["text"].startswith("the sea and 灯塔")
        assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["text_offset"]) == len(ids) + 1
        with torch.inference_mode():
            values = served.engine.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
        for place in range(1, len(ids)):
            value = float(values[place - 1, ids[place]])
            assert found["token_logprobs"][place] == pytest.approx(value, abs=1e-4)
            assert max(found["top_logprobs"][place].values()) == pytest.approx(float(values[place - 1].max()), abs=1e-4)


def test_logprobs_without_echo_are_of_the_answer_alone_and_echo_alone_tells_the_prompt(served: Any) -> None:
    asked = {"prompt": "the sea", "max_tokens": 4, "temperature": 0, "ignore_eos": False}
    plain = ask(served, **asked, logprobs=0).json()["choices"][0]
    found = ask(served, **asked, logprobs=3).json()["choices"][0]
    assert found["text"] == plain["text"]
    assert found["logprobs"]["token_logprobs"] == pytest.approx(plain["logprobs"]["token_logprobs"], abs=1e-4)
    assert ask(served, **asked, echo=True).json()["choices"][0]["text"] == "the sea" + plain["text"]


@pytest.mark.parametrize("length", [2, 7, 8, 9, 60])
def test_a_long_prompt_is_scored_in_pieces_with_the_same_values(served: Any, length: int) -> None:
    ids = [5 + place * 7 % 90 for place in range(length)]
    rows: list[int] = []
    watch = served.engine.model.register_forward_hook(lambda *told: rows.append(told[-1].logits.shape[1]))
    try:
        pieces = score(served.engine.model, ids, 2, at_once=7)
    finally:
        watch.remove()
    whole = score(served.engine.model, ids, 2)
    assert max(rows) <= 7  # so much memory and no more
    assert sum(rows) == length - 1
    assert pieces[0] == (None, None)
    assert len(pieces) == length
    for (value, best), (wanted, wanted_best) in zip(pieces[1:], whole[1:], strict=True):
        assert value == pytest.approx(wanted, abs=1e-4)
        assert best == pytest.approx(wanted_best, abs=1e-4)


def test_scores_that_nobody_waits_for_are_given_up_before_the_next_piece(served: Any) -> None:
    left = iter([False, False, True])
    assert len(score(served.engine.model, list(range(5, 65)), 0, at_once=7, unwanted=lambda: next(left))) == 15


def test_a_client_that_leaves_takes_its_scores_along(served: Any) -> None:
    begun, answer = threading.Event(), threading.Event()

    def hold(*told: Any) -> None:
        begun.set()
        assert answer.wait(30)

    watch = served.engine.model.register_forward_hook(hold)
    read: list[int] = []
    count = served.engine.model.register_forward_pre_hook(lambda *told: read.append(1))

    async def leave() -> None:
        scores = asyncio.create_task(served.engine.score(list(range(5, 95)) * 10, 0))
        await asyncio.to_thread(begun.wait, 30)
        scores.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await scores
        answer.set()

    try:
        asyncio.run(leave())  # its end waits for the threads
    finally:
        watch.remove()
        count.remove()
    assert read == [1]


def test_a_stream_begins_with_the_scored_prompt(served: Any) -> None:
    asked = {"prompt": "the sea", "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 2}
    (whole,) = ask(served, **asked).json()["choices"]
    lines = [line[6:] for line in ask(served, **asked, stream=True).text.split("\n\n") if line.startswith("data: {")]
    parts = [json.loads(line)["choices"][0] for line in lines]
    assert parts[0]["text"] == "the sea"
    assert "".join(part["text"] for part in parts) == whole["text"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [value for part in parts for value in part["logprobs"][name] or ()]
        assert joined == whole["logprobs"][name], name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    write_rows(tmp_path / "choices.jsonl", QUESTIONS)
    write_rows(tmp_path / "said.jsonl", GENERATED)
    return tmp_path


def evaluate(folder: Path, model: Path, url: str, **more: Any) -> Any:
    config = {"model": str(model), "data": ["rows.jsonl"], "max_new_tokens": 12} | more
    return publish(make_job(folder, "evaluate", config | {"endpoint": {"base_url": url}}))


def test_a_served_model_scores_what_it_scores_offline(served: Any, serve_model: Path, folder: Path) -> None:
    prompts = ["the sea", "灯塔的光", "go to the ship and the sea"]
    manifest = evaluate(
        folder, serve_model, f"{served.url}/v1", prompts=prompts, task_files=["choices.jsonl", "said.jsonl"]
    )
    found = manifest.metrics
    assert found["served_loss"] == pytest.approx(found["tuned_loss"], rel=1e-5)
    assert found["same_tokens_tuned_served"] == len(prompts)
    tasks = manifest.records["tasks"]
    assert set(tasks["served"]) == {"choices", "said"}
    assert tasks["served"] == tasks["tuned"]


def test_an_endpoint_that_is_not_there_is_refused_before_anything_is_loaded(serve_model: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="EVAL-016"):
        evaluate(folder, serve_model, "http://127.0.0.1:9/v1")


def test_an_endpoint_that_cannot_score_is_refused(
    served: Any, serve_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyllm.serve.openai.words import CompletionTeller

    whole = CompletionTeller.whole
    monkeypatch.setattr(CompletionTeller, "whole", lambda *given: whole(*given) | {"logprobs": None})
    with pytest.raises(UserError, match="EVAL-017"):
        evaluate(folder, serve_model, f"{served.url}/v1")
