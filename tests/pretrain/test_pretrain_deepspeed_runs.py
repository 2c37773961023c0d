"""Engine deepspeed by the command line: killed, gone on with, on one rank, converted as engine megatron is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from easyllm.core.artifact import read_manifest
from easyllm.pretrain import checkpoints, losses
from tiny_pipeline import tiny_recipe

pytestmark = pytest.mark.slow

STEPS = 30
SIZE = (f"pretrain.steps={STEPS}", "pretrain.checkpoint_every_steps=5", "pretrain.model.dropout=0.1")
ENGINE = ("pretrain.engine=deepspeed", "pretrain.deepspeed.zero_stage=2", *SIZE)


def curve(stage: Path) -> list[float]:
    return [row.loss for row in losses.read(stage / "losses.csv")]


def start_and_kill(recipe: Path, rows: int) -> None:
    """``easyllm run`` until so many steps and a checkpoint are there; then it and all its children are killed."""
    command = [sys.executable, "-m", "easyllm", "run", str(recipe), "--to", "pretrain", *ENGINE]
    process = subprocess.Popen(
        command, cwd=recipe.parent, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    partial, deadline = recipe.parent / "runs" / "tiny" / "pretrain.partial", time.monotonic() + 240

    def there() -> bool:
        return len(curve(partial)) >= rows and checkpoints.newest(partial / "checkpoints") is not None

    while not there() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def run(folder: Path, *changes: str) -> Path:
    """``easyllm run`` of the recipe in ``folder``; gives the folder of its artifacts."""
    command = [sys.executable, "-m", "easyllm", "run", str(folder / "tiny.yaml"), *changes]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts of a recipe that was not interrupted, to its Hugging Face model."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_recipe(folder)
    return run(folder, *ENGINE)


def test_killed_pretraining_goes_on_exactly_on_two_ranks_and_nearly_on_one(whole: Path, tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    start_and_kill(tiny_recipe(two), rows=12)
    newest = checkpoints.newest(two / "runs" / "tiny" / "pretrain.partial" / "checkpoints")
    assert newest is not None
    assert 10 <= newest[0] < STEPS
    shutil.copytree(two, one)
    uninterrupted = curve(whole / "pretrain")
    assert curve(run(two, "--to", "pretrain", *ENGINE) / "pretrain") == uninterrupted
    # Without ZeRO and on one rank it is the same run, but for the dropout masks after the checkpoint.
    other = run(one, "--to", "pretrain", *ENGINE, "pretrain.ranks=1", "pretrain.deepspeed.zero_stage=0")
    assert len(curve(other / "pretrain")) == STEPS
    assert curve(other / "pretrain")[: newest[0]] == uninterrupted[: newest[0]]
    assert curve(other / "pretrain") == pytest.approx(uninterrupted, rel=0.02)


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}


def test_both_engines_export_the_same_model(whole: Path, tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    megatron = run(tmp_path, "pretrain.engine=megatron", *SIZE)
    theirs, ours = tensors(megatron / "convert"), tensors(whole / "convert")
    assert ours.keys() == theirs.keys()
    apart = {name: float((ours[name] - tensor).abs().max()) for name, tensor in theirs.items()}
    assert max(apart.values()) < 1e-5, apart


def test_the_artifact_says_what_deepspeed_was_given_and_converts(whole: Path) -> None:
    manifest = read_manifest(whole / "pretrain")
    assert manifest is not None
    [given] = [found for found in manifest.decisions if found.what == "DeepSpeed JSON"]
    assert json.loads(given.value)["zero_optimization"] == {"stage": 2}
    assert read_manifest(whole / "convert") is not None  # its parity gate has held
