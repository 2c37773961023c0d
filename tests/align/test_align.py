"""align: preference rows and a model become one that prefers what was chosen. Tiny models, TRL's own trainers."""

import csv
import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.artifact import Manifest
from easyllm.core.errors import UserError
from tiny_tune import check, make_job, publish, tune, write_base, write_rows

COLOURS = ["red", "blue", "green", "white", "black", "grey", "brown", "pink", "gold", "teal"]
PAIRS: list[dict[str, Any]] = [
    {
        "prompt": f"What colour is door {n}?",
        "chosen": f"{COLOURS[n % 10]}.",
        "rejected": f"The colour of the door is {COLOURS[n % 10]}, I think, but who knows?",
    }
    for n in range(20)
]
ALIGN: dict[str, Any] = {
    "base": "base",
    "data": ["pairs.jsonl"],
    "epochs": 3,
    "learning_rate": 0.003,
    "sequence_tokens": 128,
    "validation_rows": 4,
    "batch": {"global_samples": 4, "micro_samples": 2},
    "checkpoint_every_steps": 3,
}


def align(folder: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Manifest:
    if not (folder / "base").exists():
        write_base(folder / "base")
    write_rows(folder / "pairs.jsonl", PAIRS if rows is None else rows)
    config = ALIGN | changes
    return publish(make_job(folder, "align", {name: value for name, value in config.items() if value is not None}))


def losses(folder: Path) -> list[dict[str, float]]:
    with (folder / "run" / "align" / "losses.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@pytest.mark.parametrize(("method", "rate"), [("lora", 0.003), ("full", 0.0005), ("int8", 0.003), ("qlora", 0.003)])
def test_held_out_pairs_are_preferred_after_dpo(tmp_path: Path, method: str, rate: float) -> None:
    made = align(tmp_path, method=method, learning_rate=rate)
    assert made.kind == ("model" if method == "full" else "adapter")
    assert made.metrics["held_out_margin"] > 0.1
    assert made.metrics["held_out_accuracy"] == 1.0
    near = 0.1 if method == "int8" else 1e-3  # int8 rounds activations by the batch they stand in
    assert abs(losses(tmp_path)[0]["margin"]) < near  # the reference is the model as it began
    assert losses(tmp_path)[0]["loss"] == pytest.approx(math.log(2), abs=near)
    assert made.records["method"] == method
    assert (tmp_path / "run" / "align" / "report.md").is_file()
    assert (tmp_path / "run" / "align" / "losses.png").is_file()


@pytest.mark.parametrize("objective", ["orpo", "kto"])
def test_the_other_objectives_prefer_what_was_chosen_too(tmp_path: Path, objective: str) -> None:
    made = align(tmp_path, objective=objective, learning_rate=0.005)
    curve = losses(tmp_path)  # orpo's rewards are means over the tokens of an answer, kto's sums
    assert curve[-1]["margin"] > curve[0]["margin"]
    assert made.metrics["last_loss"] < made.metrics["first_loss"]
    assert made.records["objective"] == objective


@pytest.mark.parametrize("objective", ["dpo", "orpo", "kto"])
def test_the_table_shows_the_rewards_that_the_objective_itself_trains_on(tmp_path: Path, objective: str) -> None:
    """The trainer tells its margin before each update: the second one's is the table's, after a run of one step."""
    whole = {"batch": {"global_samples": 40, "micro_samples": 40}, "validation_rows": None, "warmup_ratio": 0}
    made = {}
    for steps in (1, 2):
        (tmp_path / str(steps)).mkdir()
        how = whole | {"max_steps": steps, "epochs": 2, "schedule": "constant"}
        made[steps] = align(tmp_path / str(steps), objective=objective, **how)
    [line] = made[1].metrics["table"]
    told = losses(tmp_path / "2")
    assert line["margin_before"] == pytest.approx(told[0]["margin"], abs=1e-5)
    assert line["margin"] == pytest.approx(told[1]["margin"], abs=1e-5)
    assert line["accuracy"] == pytest.approx(told[1].get("accuracy", 1.0))  # kto logs none
    assert (abs(line["margin_before"]) > 0.01) == (objective == "orpo")
    per_answer = line["chosen_before"] < -20  # a random model's nats for a word and its end
    assert per_answer == (objective != "orpo")


def test_kto_learns_from_answers_judged_one_by_one(tmp_path: Path) -> None:
    rows = [
        {"prompt": pair["prompt"], "completion": pair[name], "label": name == "chosen"}
        for number, pair in enumerate(PAIRS)
        for name in (("chosen",) if number % 2 else ("rejected",))
    ]
    made = align(tmp_path, rows, objective="kto", learning_rate=0.005)
    assert made.metrics["train_margin"] > 0.1
    assert made.metrics["train_preferred_after"] is None  # no row is a pair


def test_an_adapter_is_trained_on_and_stays_one_adapter_that_merge_takes(tmp_path: Path) -> None:
    tune(tmp_path, validation_rows=2)
    made = align(tmp_path, base="finetune", validation_rows=None)
    assert made.kind == "adapter"
    tuned = json.loads((tmp_path / "run" / "finetune" / "manifest.json").read_text("utf-8"))
    assert made.records["base"] == tuned["records"]["base"]
    assert made.inputs["base"]["digest"] == tuned["digest"]  # the lineage names the adapter
    assert abs(losses(tmp_path)[0]["margin"]) < 1e-3  # the reference is the adapter, not the bare base
    assert made.records["held_out"] == tuned["records"]["held_out"]
    merged = publish(make_job(tmp_path, "merge", {"adapter": "align"}))
    assert merged.metrics["parity_top1_agreement"] == 1.0


def test_the_trainers_see_exactly_the_ids_that_serving_renders(tmp_path: Path) -> None:
    from easyllm.align import trainers
    from easyllm.align.encoding import encode_rows
    from easyllm.align.preferences import read_preferences
    from easyllm.core.chat import render
    from tiny_tune import tiny_tokenizer

    words = tiny_tokenizer()
    rows = list(read_preferences([write_rows(tmp_path / "pairs.jsonl", PAIRS[:3])], "dpo", "align"))
    encoded = encode_rows(words, rows, "align")
    made = trainers.dpo_rows(encoded, [{True: 0.0, False: 0.0}] * 3)
    told = trainers.classes("dpo")[0]._prepare_dataset(None, made, words, None, "train")  # what TRL is left with
    end = words.convert_tokens_to_ids("<|end|>")
    for row, pair in zip(told, PAIRS, strict=False):
        asked = [{"role": "user", "content": pair["prompt"]}]
        assert row["prompt_ids"] == render(words, asked, True)
        for name in ("chosen", "rejected"):
            whole = render(words, [*asked, {"role": "assistant", "content": pair[name]}], False)
            ids = row["prompt_ids"] + row[f"{name}_ids"]
            assert ids == whole[: len(ids)]
            assert ids[-1] == end  # the newline after the turn's end is not learned


def test_the_same_pairs_without_a_prompt_are_the_same_pairs(tmp_path: Path) -> None:
    from easyllm.align.preferences import read_preferences

    asked = {"role": "user", "content": "Which door?"}
    answers = [{"role": "assistant", "content": text} for text in ("Red.", "No idea.")]
    rows = [
        {"prompt": "Which door?", "chosen": "Red.", "rejected": "No idea."},
        {"prompt": [asked], "chosen": answers[:1], "rejected": answers[1:]},
        {"chosen": [asked, answers[0]], "rejected": [asked, answers[1]]},
    ]
    read = list(read_preferences([write_rows(tmp_path / "rows.jsonl", rows)], "dpo", "align"))
    assert len({row.digest for row in read}) == 1


def test_how_a_step_is_cut_into_micro_batches_changes_nothing(tmp_path: Path) -> None:
    """Fourteen rows, four in a step: the last step of an epoch has two, in one micro batch of three or in two."""
    curves = []
    for micro in (1, 4):
        folder = tmp_path / str(micro)
        folder.mkdir()
        align(folder, PAIRS[:14], batch={"global_samples": 4, "micro_samples": micro}, validation_rows=None)
        curves.append([row["loss"] for row in losses(folder)])
    assert curves[0] == pytest.approx(curves[1], abs=2e-4)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_killed_alignment_resumes_with_the_same_losses(tmp_path: Path, objective: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    align(whole, objective=objective)
    write_base(cut / "base")
    _kill_while_saving(cut, objective)
    state = cut / "run" / "align.partial" / ".state"
    assert (state / "checkpoint-3").is_dir()
    assert (state / ".half" / "checkpoint-6").is_dir()  # half written, and never taken for whole
    align(cut, objective=objective)
    for first, second in zip(losses(whole), losses(cut), strict=True):
        assert first == pytest.approx(second, abs=1e-6)


def _kill_while_saving(folder: Path, objective: str) -> None:
    """Runs align in a process of its own, which dies by SIGKILL while it writes its second state."""
    code = f"""
import os, pathlib, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from easyllm.align import trainers
from test_align import align
sync, calls = trainers.sync_tree, []
def cut(path):
    calls.append(path)
    if len(calls) == 3:  # two calls a state: the half one, and its new name
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)
trainers.sync_tree = cut
align(pathlib.Path({str(folder)!r}), objective={objective!r})
"""
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()[-2000:]


def test_rows_too_long_are_refused_with_their_place_or_left_out(tmp_path: Path) -> None:
    long = {"prompt": "Which?", "chosen": "Red. " * 60, "rejected": "Blue."}
    with pytest.raises(UserError) as refused:
        align(tmp_path, [*PAIRS[:4], long], validation_rows=None)
    [found] = refused.value.problems
    assert (found.code, found.line) == ("DATA-004", 5)
    made = align(tmp_path, [*PAIRS[:4], long], validation_rows=None, too_long="drop", max_steps=1)
    assert (made.metrics["rows"], made.metrics["rows_dropped"], made.metrics["steps"]) == (4, 1, 1)


def test_an_adapter_keeps_its_shape_and_its_method(tmp_path: Path) -> None:
    tune(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    asked = ALIGN | {"base": "finetune", "method": "full", "lora": {"rank": 2}}
    problems = check(make_job(tmp_path, "align", asked))
    assert [(found.code, found.key) for found in problems] == [
        ("ALIGN-011", "align.lora"),
        ("ALIGN-011", "align.method"),
    ]


def test_a_loss_that_is_nan_stops_the_run(tmp_path: Path) -> None:
    from easyllm.core.errors import StageFailed

    with pytest.raises(StageFailed, match="NaN") as failed:
        align(tmp_path, learning_rate=1e30, method="full", max_gradient_norm=1e30)
    assert failed.value.problem is not None
    assert failed.value.problem.code == "ALIGN-012"


@pytest.mark.slow
def test_the_shipped_recipe_teaches_the_real_model_to_prefer_short_answers(tmp_path: Path) -> None:
    from easyllm import pipeline
    from easyllm.recipes import shipped

    project = pipeline.open_project(shipped.find("align-smollm2-cpu"), [f"runs_dir={tmp_path}"])
    [made] = pipeline.run(project, ["align"])
    metrics = made.manifest.metrics
    assert metrics["held_out_margin"] > 0.1
    assert metrics["held_out_accuracy"] == 1.0
    assert metrics["train_margin"] > metrics["held_out_margin"] / 2
