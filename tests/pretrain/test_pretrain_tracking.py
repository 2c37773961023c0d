"""Curves beside losses.csv: drawn once however often a run is cut, and measured against a peak that is stated."""

from pathlib import Path

import pytest

from easyllm.pretrain import tracking
from easyllm.pretrain.architecture import architecture_of
from easyllm.pretrain.blends import Blends
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.job import RankJob
from easyllm.pretrain.losses import Row
from easyllm.pretrain.peaks import choose_peak
from tiny_megatron import drawn_by_tensorboard, pretrain_config


@pytest.fixture
def job(tmp_path: Path) -> RankJob:
    config = PretrainConfig.model_validate(pretrain_config(track=["wandb"]))
    out = tmp_path / "run" / "pretrain.partial"
    out.mkdir(parents=True)
    architecture = architecture_of(config, {"tokenizer_size": 250, "eod_id": 0})
    return RankJob(config, architecture, 1, "cpu", Blends(()), 0, out)


def row(step: int) -> Row:
    return Row(step, 1 / step, 1e-3, 0.5, step * 256, 0.5, None, 512.0, None)


def test_a_run_that_was_cut_before_and_after_a_checkpoint_is_drawn_once(job: RankJob) -> None:
    for done, last in ((0, 3), (0, 6), (4, 8)):
        trackers = tracking.Trackers(job, done)
        for step in range(done + 1, last + 1):
            trackers.log(row(step))
        trackers.flush()
    trackers.close(finished=True)
    drawn = drawn_by_tensorboard(job.out / "tensorboard")
    assert drawn == {step: pytest.approx(1 / step) for step in range(1, 9)}
    assert drawn_by_tensorboard(job.out / "tensorboard", "loss/validation") == {}


def test_a_service_that_fails_is_let_go_with_a_word_and_the_others_go_on(
    job: RankJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Away(tracking.TensorBoard):
        def __init__(self, job: RankJob) -> None:
            super().__init__(job, 0)

        def log(self, row: Row) -> None:
            raise ConnectionError("no route to host")

    monkeypatch.setitem(tracking.SERVICES, "wandb", Away)
    trackers = tracking.Trackers(job, 0)
    trackers.log(row(1))
    trackers.log(row(2))
    trackers.close(finished=True)
    said = capsys.readouterr().err
    assert said.count("wandb is lost to this run (ConnectionError: no route to host)") == 1
    assert set(drawn_by_tensorboard(job.out / "tensorboard")) == {1, 2}


@pytest.mark.parametrize(
    ("gpu", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989), ("NVIDIA A30", 165), ("NVIDIA A100-PCIE-40GB", 312), ("Tesla T4", None),
        ("NVIDIA L4", None), ("Some GPU", None),
    ],
)  # fmt: skip
def test_the_peak_of_a_gpu_is_its_makers(gpu: str, tflops: float | None) -> None:
    assert choose_peak(None, "cuda", gpu, "bfloat16")[0] == tflops


def test_no_utilisation_is_given_where_no_peak_is_known() -> None:
    peak, why = choose_peak(None, "cpu", "", "float32")
    assert peak is None
    assert "pretrain.peak_tflops" in why
    assert choose_peak(None, "cuda", "NVIDIA H100 80GB HBM3", "float32")[0] is None, "its 16 bit peak is another"
    assert choose_peak(0.1, "cpu", "", "float32")[0] == 0.1
