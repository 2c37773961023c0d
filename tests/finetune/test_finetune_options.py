"""What the options of training do: schedules, noise, held-out rows, precision, devices."""

import csv
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from easyllm.core.batches import pack, pad
from easyllm.core.errors import UserError
from easyllm.core.examples import Example
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.noise import EmbeddingNoise
from easyllm.finetune.precision import choose, device_kind
from easyllm.finetune.schedule import learning_rate
from easyllm.finetune.work import NOWHERE
from tiny_tune import FINETUNE, ROWS, check, make_job, publish, tune, write_base, write_rows


def config_of(**changes: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate({"base": "base", "data": ["rows.jsonl"]} | changes)


def test_the_rate_rises_and_falls_as_the_schedule_says() -> None:
    rates = {
        name: [learning_rate(step, 10, 1.0, 0.2, name) for step in range(1, 11)]
        for name in ("cosine", "linear", "constant")
    }
    for found in rates.values():
        assert found[:2] == [0.5, 1.0]
    assert rates["constant"][2:] == [1.0] * 8
    falls = [a - b for a, b in zip(rates["linear"][2:], rates["linear"][3:], strict=False)]
    assert falls == pytest.approx([1 / 9] * 7)
    assert 0 < rates["cosine"][-1] < rates["linear"][-1] < 0.2


def test_noise_is_as_large_as_each_rows_own_length_says_padded_or_packed() -> None:
    class Model:
        embeddings = torch.nn.Embedding(9, 16)

        def get_input_embeddings(self) -> torch.nn.Embedding:
            return self.embeddings

    model = Model()
    noise = EmbeddingNoise(model, alpha=5)
    rows = [Example([1] * length, [1] * length, NOWHERE) for length in (4, 64)]
    for batch, parts in (
        (pad(rows, 0), [(0, slice(0, 4)), (1, slice(0, 64))]),
        (pack(rows), [(0, slice(0, 4)), (0, slice(4, 68))]),
    ):
        noise.batch = batch
        model.embeddings.train()
        noisy = model.embeddings(batch.input_ids)
        model.embeddings.eval()
        added = (noisy - model.embeddings(batch.input_ids)).abs()
        for (row, part), length in zip(parts, (4, 64), strict=True):
            limit = 5 / (length * 16) ** 0.5
            assert 0.8 * limit < float(added[row, part].max().detach()) <= limit * 1.0001


def held_out(folder: Path) -> dict[int, float]:
    with (folder / "losses.csv").open() as file:
        return {int(r["step"]): float(r["held_out_loss"]) for r in csv.DictReader(file) if r["held_out_loss"]}


def test_the_best_measurement_is_published_and_training_stops_when_it_gets_no_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "validation_rows": 4,
        "epochs": 30,
        "learning_rate": 0.03,
        "neftune_alpha": 5,
        "gradient_checkpointing": True,
    }
    manifest = tune(tmp_path, **changes, validation={"every_steps": 2, "patience": 2, "keep_best": True})
    measured = held_out(tmp_path / "run" / "finetune")
    best = min(measured, key=lambda step: measured[step])
    said = {decision.what: decision.value for decision in manifest.decisions}
    assert said["weights of step"] == best
    assert said["early stop"] is True
    assert manifest.metrics["steps"] == best + 4 < 30 * 3
    assert manifest.metrics["best_held_out_loss"] == manifest.metrics["held_out_loss"] == measured[best]
    told = capsys.readouterr().err
    assert "finetune: stopped early: no better held-out loss" in told
    assert f"the weights of step {best} are published" in told


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
@pytest.mark.parametrize(
    "key",
    ["learning_rate", "weight_decay", "max_gradient_norm", "neftune_alpha", "warmup_ratio", "lora.alpha",
     "lora.dropout", "quantisation.int8_threshold", "data"],
)  # fmt: skip
def test_numbers_that_are_infinite_or_none_are_refused(key: str, number: float) -> None:
    section, _, inner = key.partition(".")
    value: Any = {inner: number} if inner else number
    with pytest.raises(ValidationError, match="finite"):
        config_of(**{section: [{"rows": "rows.jsonl", "weight": number}] if key == "data" else value})


def test_bf16_on_a_cpu_is_computed_and_says_what_it_costs(tmp_path: Path) -> None:
    manifest = tune(tmp_path, precision="bf16", max_steps=5)
    assert manifest.metrics["steps"] == 5
    [dtype] = [decision for decision in manifest.decisions if decision.what == "dtype"]
    assert dtype.value == "bfloat16"
    assert dtype.why == choose(config_of(precision="bf16"), "cpu").why


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for GPUs that are not there")
def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="TRAIN-037"):
        device_kind(config_of(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"TRAIN-032.*2 ranks.*1 GPU"):
        device_kind(config_of(ranks=2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")
def test_ligers_kernels_are_refused_where_they_cannot_run_and_left_out_where_nobody_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyllm.finetune import checks

    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    asked = FINETUNE | {"kernels": "liger"}
    [missing] = check(make_job(tmp_path, "finetune", asked))
    assert (missing.code, missing.key) == ("TRAIN-034", "finetune.kernels")
    monkeypatch.setattr(checks, "find_spec", lambda _: True)  # the package alone does not help
    job = make_job(tmp_path, "finetune", asked)
    assert check(job) == []  # the GPUs are counted when training begins
    with pytest.raises(UserError, match=r"TRAIN-034"):
        publish(job)
    assert device_kind(make_job(tmp_path, "finetune", FINETUNE).config) == "cpu"  # kernels: auto


@pytest.mark.parametrize(
    ("stage", "policy", "says"),
    [
        ("finetune", "refuse", "never cut"),
        ("finetune", "drop", "until then they count as rows"),
        ("finetune", "truncate", "the beginning is kept"),
        ("align", "refuse", "never cut"),
        ("align", "drop", "until then they count as rows"),
    ],
)
def test_a_plan_says_what_becomes_of_rows_that_are_too_long(tmp_path: Path, stage: str, policy: str, says: str) -> None:
    write_base(tmp_path / "base")
    write_rows(
        tmp_path / "rows.jsonl", ROWS if stage == "finetune" else [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    )
    asked = {"base": "base", "data": ["rows.jsonl"], "too_long": policy, "sequence_tokens": 96}
    made = importlib.import_module(f"easyllm.{stage}.plan").plan(make_job(tmp_path, stage, asked))
    [reason] = [decision.why for decision in made.decisions if decision.what == "length"]
    assert says in reason
    assert "96" in reason
