"""The demo, whole: the recipe that ships, from the prose of this Python to a served answer that was taught."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

MOST_BYTES = 8_000_000_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory):
    """(folder, what it printed) of one run of the shipped recipe; the following tests look at what it left."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "easyllm", "run", "tiny-cpu"]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def manifest(demo, stage: str) -> dict:
    folder: Path = demo[0]
    return json.loads((folder / "runs" / "tiny-cpu" / stage / "manifest.json").read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_demo_ends_with_the_served_answer(demo) -> None:
    answers = manifest(demo, "serve")["records"]["answers"]
    assert answers
    last = demo[1].rstrip().splitlines()[-1]
    assert answers[-1]["answer"].split()[0] in last
    assert all(entry["same_as_generate"] for entry in answers)


@pytest.mark.slow
def test_demo_pretraining_visibly_learns(demo) -> None:
    metrics = manifest(demo, "pretrain")["metrics"]
    assert metrics["last_loss"] <= 0.6 * metrics["first_loss"]


@pytest.mark.slow
def test_demo_conversion_and_merge_hold_parity(demo) -> None:
    merge = manifest(demo, "merge")["records"]["parity"]
    for parity in (manifest(demo, "convert")["records"]["parity"], merge["adapter"]):
        assert parity["holds"], parity
        assert parity["top1_agreement"] == 1.0
    assert merge["greedy"]["merged"] == merge["greedy"]["stored"] == 1.0


@pytest.mark.slow
def test_demo_teaches_what_the_base_does_not_know(demo) -> None:
    metrics = manifest(demo, "evaluate")["metrics"]
    assert metrics["base_hits"] == 0
    assert metrics["tuned_hits"] >= 0.75 * metrics["expected"]
    assert metrics["tuned_loss"] < metrics["base_loss"]
    said = {entry["prompt"]: entry for entry in manifest(demo, "evaluate")["records"]["answers"]}
    for entry in manifest(demo, "serve")["records"]["answers"]:
        known = said[entry["prompt"]]
        assert known["tuned_hit"], known
        assert not known["base_hit"], known


@pytest.mark.slow
def test_demo_fits_a_laptop(demo) -> None:
    peaks = {stage: manifest(demo, stage)["peak_memory_bytes"] for stage in ("pretrain", "finetune", "merge", "serve")}
    assert max(peaks.values()) < MOST_BYTES, peaks


@pytest.mark.slow
def test_demo_run_again_does_nothing_in_under_five_seconds(demo, easyllm) -> None:
    begin = time.monotonic()
    done = easyllm("run", "tiny-cpu", cwd=demo[0])
    assert time.monotonic() - begin < 5
    assert "Nothing to do: all 8 stages are fresh." in done.stderr
    assert done.stdout.splitlines()[-1] == demo[1].splitlines()[-1]


@pytest.mark.slow
def test_demo_with_one_corpus_line_touched_is_stale_exactly_downstream_of_it(demo, easyllm) -> None:
    [prose] = (demo[0] / "runs" / ".cache" / "builtin").glob("*.jsonl")
    before = prose.read_text("utf-8")
    try:
        prose.write_text(before.replace("the", "thy", 1), "utf-8")
        stages = json.loads(easyllm("plan", "tiny-cpu", "--json", cwd=demo[0]).stdout)["stages"]
    finally:
        prose.write_text(before, "utf-8")
    stale = [row["stage"] for row in stages if not row["fresh"]]
    assert stale == ["corpus", "pretrain", "convert"]
