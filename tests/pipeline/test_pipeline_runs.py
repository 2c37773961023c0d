"""A whole recipe: what is fresh is skipped, what changed is made again, what was killed goes on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tiny_pipeline import tiny_recipe


def statuses(text: str) -> dict[str, str]:
    return {row["stage"]: row["status"] for row in json.loads(text)["stages"]}


def losses(run: Path) -> dict[int, float]:
    with (run / "pretrain" / "losses.csv").open() as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny recipe that has been run once, from text to a Hugging Face model."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = tiny_recipe(folder)
    subprocess.run([sys.executable, "-m", "easyllm", "run", recipe], cwd=folder, check=True, timeout=600)
    return folder


@pytest.mark.slow
def test_stages_left_whole_artifacts_with_manifests_and_nothing_half_done(finished: Path) -> None:
    run = finished / "runs" / "tiny"
    assert sorted(p.name for p in run.iterdir() if not p.name.startswith(".")) == [
        "convert",
        "corpus",
        "pretrain",
    ]
    for stage in ("corpus", "pretrain", "convert"):
        manifest = json.loads((run / stage / "manifest.json").read_text())
        assert manifest["stage"] == stage
        assert all((run / stage / entry["path"]).stat().st_size == entry["bytes"] for entry in manifest["outputs"])


@pytest.mark.slow
def test_a_second_run_does_nothing_says_so_and_takes_under_five_seconds(finished: Path, easyllm) -> None:
    begin = time.monotonic()
    done = easyllm("run", "tiny.yaml", cwd=finished)
    assert time.monotonic() - begin < 5
    assert "Nothing to do: all 3 stages are fresh." in done.stderr
    assert set(statuses(easyllm("run", "tiny.yaml", "--json", cwd=finished).stdout).values()) == {"fresh"}


@pytest.mark.slow
def test_a_touched_corpus_line_makes_exactly_what_is_downstream_stale(finished: Path, easyllm) -> None:
    corpus = finished / "corpus.jsonl"
    before = corpus.read_text("utf-8")
    try:
        os.utime(corpus)  # a new time alone changes nothing
        plan = json.loads(easyllm("plan", "tiny.yaml", "--json", cwd=finished).stdout)["stages"]
        assert [row["fresh"] for row in plan] == [True, True, True]
        corpus.write_text(before.replace('page 7"', 'page seven"').replace("lighthouse", "light-house", 1), "utf-8")
        plan = json.loads(easyllm("plan", "tiny.yaml", "--json", cwd=finished).stdout)["stages"]
        assert [row["fresh"] for row in plan] == [False, False, False]
    finally:
        corpus.write_text(before, "utf-8")
    changed = ["convert.checkpoint=pretrain", "pretrain.steps=13"]
    plan = json.loads(easyllm("plan", "tiny.yaml", *changed, "--json", cwd=finished).stdout)["stages"]
    assert [row["fresh"] for row in plan] == [True, False, False]


@pytest.mark.slow
def test_lineage_leads_from_the_model_back_to_the_text(finished: Path, easyllm) -> None:
    tree = json.loads(easyllm("lineage", "runs/tiny/convert", "--json", cwd=finished).stdout)
    pretrain = tree["inputs"]["checkpoint"]["from"]
    corpus = pretrain["inputs"]["corpus"]["from"]
    assert (tree["stage"], pretrain["stage"], corpus["stage"]) == ("convert", "pretrain", "corpus")
    assert corpus["inputs"]["input"]["ref"] == "corpus.jsonl"
    assert "corpus.jsonl" in easyllm("lineage", "runs/tiny/convert", cwd=finished).stdout


@pytest.mark.slow
def test_killed_pretraining_goes_on_from_the_last_checkpoint_with_the_same_losses(
    finished: Path, tmp_path: Path, easyllm
) -> None:
    recipe = tiny_recipe(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "easyllm", "run", recipe, "--to", "pretrain"],
        cwd=tmp_path,
        start_new_session=True,
    )
    partial = tmp_path / "runs" / "tiny" / "pretrain.partial"
    deadline = time.monotonic() + 300
    while not list(partial.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    ranks = [p for p in psutil.Process(process.pid).children(recursive=True) if p.is_running()]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(ranks, timeout=15)
    assert alive == [], "a rank outlived the killed run and would write into its checkpoints"
    assert not (tmp_path / "runs" / "tiny" / "pretrain").exists()
    done = easyllm("run", recipe, "--to", "pretrain")
    assert "going on where the last run was cut" in done.stderr
    whole, resumed = losses(finished / "runs" / "tiny"), losses(tmp_path / "runs" / "tiny")
    assert list(resumed) == list(range(1, 13)) == list(whole)
    assert resumed == pytest.approx(whole, abs=1e-6)


@pytest.mark.slow
def test_the_gpt2_recipe_that_ships_runs_with_tensor_parallelism(easyllm, tmp_path: Path) -> None:
    short = ["pretrain.steps=12", "pretrain.batch.global_samples=4", "pretrain.batch.micro_samples=4"]
    easyllm("run", "tiny-gpt2-cpu", *short, "pretrain.optimizer.warmup_steps=2")
    record = json.loads((tmp_path / "runs" / "tiny-gpt2-cpu" / "convert" / "manifest.json").read_text("utf-8"))
    assert record["records"]["architecture"]["family"] == "gpt2"
    assert record["records"]["parity"]["holds"]
