"""Scores: the loss is the one anybody would compute, answers stand side by side, nothing is compared unfairly."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.core.chat import load_tokenizer, render
from easyllm.core.errors import UserError
from easyllm.core.models import load_model
from easyllm.evaluate.questions import Question
from tiny_tune import ROWS, check, make_job, publish, tune, write_base, write_rows

PROMPTS = [
    {"prompt": "What colour is the door?", "expect": "red"},
    {"prompt": "门是什么颜色？", "expect": ["红", "red"]},
]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base, rows, a finetune artifact with three held-out rows, and its merge."""
    folder = tmp_path_factory.mktemp("evaluate")
    tune(folder, validation_rows=3, epochs=60, lora={"rank": 16, "alpha": 32})
    publish(make_job(folder, "merge", {}))
    write_rows(folder / "prompts.jsonl", PROMPTS)
    return folder


def evaluate(folder: Path, **config: Any) -> tuple[dict[str, Any], Path]:
    manifest = publish(make_job(folder, "evaluate", {"prompt_files": ["prompts.jsonl"]} | config))
    assert manifest.kind == "scores"
    return manifest.metrics, folder / "run" / "evaluate"


def stock_loss(directory: Path, folder: Path) -> float:
    """Mean loss per answer token of the held-out rows, by transformers' own loss, one row at a time.

    Answers are found by reading the ids as a person would: from an assistant's header to the turn's end.
    """
    tokenizer, model = load_tokenizer(folder / "base"), load_model(directory, torch.float32)
    header = tokenizer("<|start|>assistant\n", add_special_tokens=False)["input_ids"]
    total, count = 0.0, 0
    for line in (folder / "run" / "finetune" / "held_out.jsonl").read_text("utf-8").splitlines():
        ids = render(tokenizer, json.loads(line)["messages"], False)
        labels, answering = [-100] * len(ids), False
        for at, token in enumerate(ids):
            answering = answering or ids[max(0, at - len(header)) : at] == header
            labels[at] = token if answering else -100
            answering = answering and token != tokenizer.eos_token_id
        with torch.no_grad():
            mean = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
        answers = sum(label != -100 for label in labels)
        total, count = total + mean * answers, count + answers
    return total / count


def test_held_out_loss_and_perplexity_before_and_after_are_right(tuned: Path) -> None:
    found, out = evaluate(tuned)
    assert found["base_loss"] == pytest.approx(stock_loss(tuned / "base", tuned), rel=1e-5)
    assert found["tuned_loss"] == pytest.approx(stock_loss(tuned / "run" / "merge", tuned), rel=1e-5)
    assert found["tuned_perplexity"] == pytest.approx(math.exp(found["tuned_loss"]))
    assert found["held_out_rows"] == 3
    scores = json.loads((out / "scores.json").read_text())
    assert scores["metrics"] == found


def test_what_was_taught_is_answered_by_the_tuned_model_only(tuned: Path) -> None:
    found, out = evaluate(tuned, prompts=["a | b\n[bold]c"])
    rows = [json.loads(line) for line in (out / "answers.jsonl").read_text("utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == ["a | b\n[bold]c", *[p["prompt"] for p in PROMPTS]]
    assert (found["expected"], found["base_hits"], found["tuned_hits"]) == (2, 0, 2)
    assert rows[1]["tuned"] == "The door is red."
    assert rows[0]["tuned_hit"] is None
    report = (out / "report.md").read_text("utf-8")
    tables = [line for line in report.splitlines() if line.startswith("|")]
    assert report.count("✓ The door is red.") == 2  # the adapter's and the merged model's
    assert r"| a \| b<br>\[bold\]c |" in report
    assert all(line.replace("\\|", "").count("|") in (5, 6) for line in tables)


def test_answers_do_not_depend_on_who_else_is_in_the_batch(tuned: Path) -> None:
    said = []
    for at_once in (1, 3):
        _, out = evaluate(tuned, prompts=["Add. 2 + 3 and then some more words"], batch_samples=at_once)
        said.append((out / "answers.jsonl").read_text("utf-8"))
    assert said[0] == said[1]


def test_an_adapter_scores_what_its_merged_model_scores(tuned: Path) -> None:
    merged, _ = evaluate(tuned)
    adapter, _ = evaluate(tuned, model="finetune")
    assert adapter["tuned_loss"] == pytest.approx(merged["tuned_loss"], rel=1e-4)
    assert adapter["base_loss"] == pytest.approx(merged["base_loss"], rel=1e-6)
    assert adapter["tuned_hits"] == merged["tuned_hits"]


def test_a_model_that_tells_of_no_base_is_measured_alone(tuned: Path) -> None:
    found, out = evaluate(tuned, model="base", data=["rows.jsonl"])
    assert "base_loss" not in found
    assert found["tuned_loss"] > 0
    assert "base (" not in (out / "report.md").read_text("utf-8")


def test_nothing_to_evaluate_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    assert [p.code for p in check(make_job(tmp_path, "evaluate", {"model": "base"}))] == ["EVAL-001"]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "?"},
        {"prompt": ""},
        {"prompt": "?", "expect": 4},
        {"prompt": "?", "expect": [""]},
        {"prompt": "?", "expected": "a"},
    ],
)
def test_a_bad_prompt_row_is_named_by_line(tmp_path: Path, row: dict[str, Any]) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "prompts.jsonl", [PROMPTS[0], row])
    (found,) = check(make_job(tmp_path, "evaluate", {"model": "base", "prompt_files": ["prompts.jsonl"]}))
    assert (found.code, found.line) == ("EVAL-002", 2)


def test_models_of_different_tokenizers_are_not_compared(tuned: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    other = write_base(tmp_path / "other")
    alphabet = {symbol: n for n, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=raw).save_pretrained(other)
    with pytest.raises(UserError, match="EVAL-003"):
        evaluate(tuned, base=str(other))


def test_a_hit_is_any_expected_text_in_any_case() -> None:
    assert Question("?", ("Mara", "玛拉")).hit("it is MARA.") is True
    assert Question("?", ("Mara",)).hit("nobody") is False
    assert Question("?").hit("anything") is None


def test_rows_of_the_recipe_replace_those_that_were_held_out(tuned: Path) -> None:
    found, _ = evaluate(tuned, data=["rows.jsonl"])
    assert found["held_out_rows"] == len(ROWS)
    assert found["tuned_loss"] < 0.5 * found["base_loss"]  # most of these rows were trained on


def test_what_is_longer_than_the_models_is_refused_by_line_and_number(tmp_path: Path) -> None:
    write_base(tmp_path / "base", "gpt2")
    rows = [{"instruction": "What? " * 300, "output": "x"}, {"instruction": "What?", "output": "x"}]
    write_rows(tmp_path / "long.jsonl", rows)
    asked = {"model": "base", "data": ["long.jsonl"], "prompts": ["hi"], "max_new_tokens": 400}
    with pytest.raises(UserError) as refused:
        publish(make_job(tmp_path, "evaluate", asked))
    assert [(p.code, p.line) for p in refused.value.problems] == [("EVAL-021", 1), ("EVAL-022", None)]
    assert "hold 256" in str(refused.value)


def test_a_prompt_that_the_template_cannot_write_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    template = tmp_path / "base" / "chat_template.jinja"
    fails = "{% if messages[0]['content'] == 'bye' %}{{ 1 / 0 }}{% endif %}"
    template.write_text(fails + template.read_text("utf-8"), "utf-8")
    with pytest.raises(UserError, match=r"TEMPLATE-006.*'bye': division by zero"):
        publish(make_job(tmp_path, "evaluate", {"model": "base", "prompts": ["hi", "bye"]}))


def test_a_cell_of_the_report_shows_what_was_said_and_runs_none_of_it() -> None:
    from easyllm.evaluate.report import _literally

    said = _literally("<img src=x onerror=alert(1)> **bold** a|b\n\n`code`")
    assert said == r"&lt;img src=x onerror=alert(1)&gt; \*\*bold\*\* a\|b<br>\`code\`"
