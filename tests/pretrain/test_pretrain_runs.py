"""Pretraining for real: two ranks over gloo, killed, resumed, spread in other ways."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from easyllm.core.artifact import read_manifest
from easyllm.core.errors import StageFailed
from easyllm.pretrain import checkpoints, losses, run
from easyllm.pretrain.checks import check
from easyllm.pretrain.split import parts
from tiny_megatron import REPOSITORY, RUNS, drawn_by_tensorboard, pretrain, pretrain_job, shared_corpus, trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


def curve(directory: Path) -> list[float]:
    return [row.loss for row in losses.read(directory / "losses.csv")]


def test_the_loss_falls_and_the_artifact_has_all_that_convert_needs(base: Path) -> None:
    out = trained(base, "llama")
    values = curve(out)
    assert len(values) == 60
    assert sum(values[-5:]) / 5 < values[0] - 0.6
    visible = {p.name for p in out.iterdir() if not p.name.startswith(".")}
    assert visible == {"checkpoint", "losses.csv", "losses.png", "tensorboard", "tokenizer", "manifest.json"}
    manifest = read_manifest(out)
    assert manifest is not None
    assert (manifest.kind, manifest.records["architecture"]["padded_vocabulary"]) == ("checkpoint", 1024)
    assert manifest.records["ledger"]["tokenizer_size"] == 1000


Started = tuple["subprocess.Popen[str]", list[psutil.Process]]


def start(
    corpus: Path, out: Path, name: str, rows: int, steps: int | None = None, timeout: float | None = None
) -> Started:
    """Start one of RUNS in a session of its own; gives it and all its children once ``rows`` steps are done, and the
    first checkpoint is there if it was due by then: it is written while training goes on."""
    changes = RUNS[name] | ({"steps": steps} if steps else {}) | ({"timeout_seconds": timeout} if timeout else {})
    code = (
        "import json, sys; from pathlib import Path; from tiny_megatron import pretrain\n"
        "pretrain(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(corpus), str(out), json.dumps(changes)],
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    due = rows > changes.get("checkpoint_every_steps", rows)

    def there() -> bool:
        return len(curve(out)) >= rows and (not due or checkpoints.newest(out / "checkpoints") is not None)

    while not there() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None
    return process, psutil.Process(process.pid).children(recursive=True)


def test_killed_pretraining_resumes_with_the_same_loss(base: Path, tmp_path: Path) -> None:
    corpus, out = shared_corpus(base), tmp_path / "out"
    process, children = start(corpus, out, "llama", rows=25)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == [], "a rank outlived the killed run and would write into its checkpoints"
    newest = checkpoints.newest(out / "checkpoints")
    assert newest is not None
    assert newest[0] in (20, 40)
    pretrain(corpus, out, **RUNS["llama"])
    assert curve(out) == pytest.approx(curve(trained(base, "llama")), abs=1e-6)
    rows = losses.read(out / "losses.csv")
    assert [row.step for row in rows] == list(range(1, 61))
    drawn = drawn_by_tensorboard(out / "tensorboard")
    assert drawn == {row.step: pytest.approx(row.loss, rel=1e-6) for row in rows}


def test_ranks_end_when_only_the_process_that_started_them_is_killed(base: Path, tmp_path: Path) -> None:
    process, children = start(shared_corpus(base), tmp_path / "out", "data-parallel", rows=2, steps=100_000)
    assert len(children) >= 3  # torchrun and two ranks
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_ctrl_c_ends_the_ranks_without_a_word_from_them(base: Path, tmp_path: Path) -> None:
    process, children = start(shared_corpus(base), tmp_path / "out", "data-parallel", rows=2, steps=100_000)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert errors.strip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1  # of the process that called the stage; the pipeline catches it
    assert "[rank" not in errors


def test_sigterm_saves_and_a_damaged_checkpoint_is_passed_over_on_another_layout(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus, out = shared_corpus(base), tmp_path / "out"
    process, children = start(corpus, out, "stopped", rows=8)
    process.terminate()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    before = losses.read(out / "losses.csv")
    (_, good), (last, damaged) = checkpoints.whole(out / "checkpoints")[-2:]
    assert last == before[-1].step < 40  # the step it was in, not the last multiple of five
    file = max(damaged.glob("*.distcp"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    capfd.readouterr()
    pretrain(corpus, out, **RUNS["stopped"] | {"ranks": 1, "parallel": {"tensor": 1}})
    said = capfd.readouterr().err
    assert f"step {last} is damaged ({file.name}" in said
    assert f"step {int(good.name[5:])}" in said
    after = losses.read(out / "losses.csv")
    assert [row.step for row in after] == list(range(1, 41))
    assert [row.loss for row in after[:last]] == pytest.approx([row.loss for row in before], rel=1e-5)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-000020"]


def test_a_rank_that_stands_still_is_found_and_named(base: Path, tmp_path: Path) -> None:
    process, children = start(shared_corpus(base), tmp_path / "out", "data-parallel", 3, steps=100_000, timeout=5)
    rank = next(p for p in children if p.is_running() and p.environ().get("RANK") == "1")
    rank.suspend()
    _, errors = process.communicate(timeout=90)
    assert "PRETRAIN-022" in errors
    assert "rank 1 did not move for 5 s at step" in errors
    assert f"process {rank.pid}" in errors


def test_one_rank_and_two_halves_train_the_same_model(base: Path) -> None:
    # 1024 padded rows both ways, and every matrix is drawn whole before it is cut: the same first weights.
    one, halves = curve(trained(base, "one-rank")), curve(trained(base, "tensor-parallel"))
    assert halves == pytest.approx(one, rel=1e-5)


def test_the_held_out_documents_are_those_that_megatron_holds_out(base: Path) -> None:
    corpus = shared_corpus(base)
    manifest = read_manifest(corpus)
    assert manifest is not None
    record = manifest.records["tokens"]
    train, held_out = parts(corpus / "tokens", record["documents"], 0.1)
    assert train.documents + held_out.documents == record["documents"]
    assert train.tokens is not None
    assert held_out.tokens is not None
    assert train.tokens + held_out.tokens == record["tokens"]
    most = (held_out.tokens - 1) // 32
    found = check(pretrain_job(corpus, base / "none", validation={"share": 0.1, "samples": most // 4 * 4 + 4}))
    assert [p.code for p in found] == ["PRETRAIN-018"]
    assert str(most) in str(found[0])
    assert check(pretrain_job(corpus, base / "none", validation={"share": 0.1, "samples": most // 4 * 4})) == []


def test_validation_is_in_the_curve_and_falls(base: Path) -> None:
    rows = losses.read(trained(base, "llama") / "losses.csv")
    measured = {row.step: row.validation for row in rows if row.validation is not None}
    assert list(measured) == [20, 40, 60]
    assert measured[60] < measured[20]


def test_a_gpt2_model_trains_over_two_halves(base: Path) -> None:
    values = curve(trained(base, "gpt2"))
    assert values[-1] < values[0] - 0.1


def test_a_run_that_was_cut_after_its_last_step_only_gathers(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained(base, "one-rank"), out)
    (out / "losses.png").unlink()
    began = time.monotonic()
    metrics = pretrain(shared_corpus(base), out, **RUNS["one-rank"])
    assert time.monotonic() - began < 6
    assert metrics["steps"] == 8
    assert 0 < metrics["model_flops_utilisation"] < 1, "of the 0.1 TFLOPS that the recipe states"
    assert (out / "losses.png").is_file()


def test_a_learning_rate_that_blows_up_stops_with_the_reason(base: Path, tmp_path: Path) -> None:
    wild = {"learning_rate": 1e30, "min_learning_rate": 1e30, "warmup_steps": 0, "clip_grad": 0}
    with pytest.raises(StageFailed, match=r"PRETRAIN-006.*not a number at step \d+.*Lower pretrain.optimizer"):
        run.run(pretrain_job(shared_corpus(base), tmp_path / "out", ranks=1, optimizer=wild))
