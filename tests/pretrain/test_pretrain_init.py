"""Pretraining that goes on from a Hugging Face model: the first loss is the model's own, on every layout."""

import json
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.launch import run_ranks
from tiny_families import make_model

pytestmark = pytest.mark.slow

FAMILIES = ("llama", "qwen3", "gpt2", "bloom")
LENGTH, SAMPLES = 16, 8
ZERO = {"engine": "deepspeed", "parallel": {"tensor": 2}}
STEPS = 3


def scenario(model: Path, ranks: int, **changes: Any) -> dict[str, Any]:
    config = {
        "init": str(model), "sequence_tokens": LENGTH, "batch": {"global_samples": SAMPLES, "micro_samples": 4},
        "ranks": ranks, "steps": 8, "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2}, "device": "cpu",
    }  # fmt: skip
    return {"config": config | changes, "steps": STEPS}


def train(folder: Path, scenarios: dict[str, Any], ranks: int) -> dict[str, Any]:
    folder.mkdir()
    job = folder / "job.json"
    job.write_text(json.dumps({"scenarios": scenarios}), "utf-8")
    paths = f"{Path(__file__).parents[2]}:{Path(__file__).parents[1]}"
    run_ranks("engine_ranks", [str(job)], ranks, {"PYTHONPATH": paths})
    return dict(json.loads((folder / "results.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make_model(name, folder / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def found(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Losses by family and layout."""
    folder = tmp_path_factory.mktemp("init")
    one = {f"{name}, whole": scenario(model, 1) for name, model in models.items()}
    two = {
        f"{name}, zero {stage}": scenario(model, 2, **ZERO, deepspeed={"zero_stage": stage})
        for name, model in models.items()
        for stage in (1, 3)
    }
    layout = {"tensor": 2, "pipeline": 2}
    four = {f"{name}, stages of halves": scenario(model, 4, parallel=layout) for name, model in models.items()}
    return train(folder / "1", one, 1) | train(folder / "2", two, 2) | train(folder / "4", four, 4)


def loss_of_transformers(model: Path) -> float:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    rows = torch.stack([(torch.arange(LENGTH + 1) * (1 + n % 3) + n * 7) % 250 for n in range(SAMPLES)])
    with torch.no_grad():
        return float(loaded(input_ids=rows, labels=rows).loss)


@pytest.mark.parametrize("layout", ["whole", "stages of halves", "zero 1", "zero 3"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_loss_is_the_models_own(
    found: dict[str, Any], models: dict[str, Path], family: str, layout: str
) -> None:
    first = found[f"{family}, {layout}"]["losses"][0]
    assert first == pytest.approx(loss_of_transformers(models[family]), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_goes_on_alike(found: dict[str, Any], family: str) -> None:
    """Under DeepSpeed the gradients of Qwen3's q/k norms are summed over the heads of all ranks."""
    whole = found[f"{family}, whole"]["losses"]
    for layout in ("stages of halves", "zero 1", "zero 3"):
        assert found[f"{family}, {layout}"]["losses"] == pytest.approx(whole, rel=1e-4)
