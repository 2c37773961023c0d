"""Every layout trains the same model, and what one layout saves another goes on with: real ranks over gloo."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.launch import run_ranks

pytestmark = pytest.mark.slow

LLAMA = {"family": "llama", "layers": 4, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn_hidden": 48, "init_std": 0.1}
GPT2 = {"family": "gpt2", "layers": 2, "hidden": 32, "heads": 4, "init_std": 0.1}
TIED = LLAMA | {"tie_embeddings": True}
DROPOUT = LLAMA | {"dropout": 0.1}
PLAIN = {"learning_rate": 5e-3, "warmup_steps": 2}
DISTRIBUTED = PLAIN | {"distributed": True}
INTERLEAVED = {"pipeline": 2, "virtual_pipeline": 2}
HALVES = {"tensor": 2, "sequence": True}
RAMP = {"global_samples": 12, "micro_samples": 2, "ramp": {"from_samples": 4, "by_samples": 4, "over_samples": 16}}


def scenario(steps: int = 4, load: str = "", save: str = "", held_out: bool = False, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model": LLAMA, "sequence_tokens": 16, "batch": {"global_samples": 8, "micro_samples": 4}, "ranks": 2,
        "steps": 8, "optimizer": PLAIN, "device": "cpu",
    }  # fmt: skip
    found: dict[str, Any] = {"config": config | changes, "steps": steps, "held_out": held_out}
    return found | ({"load": load} if load else {}) | ({"save": save} if save else {})


def cut_and_whole(name: str, **changes: Any) -> dict[str, Any]:
    """Four steps in one go, and two and two with a checkpoint between."""
    return {
        name: scenario(4, **changes),
        f"{name}, first": scenario(2, save=name, **changes),
        f"{name}, second": scenario(2, load=name, **changes),
    }


SCENARIOS: dict[str, Any] = {
    "copies": scenario(),
    "halves": scenario(parallel=HALVES, save="halves"),
    "interleaved": scenario(parallel=INTERLEAVED),
    "interleaved, all repairs": scenario(parallel=INTERLEAVED, recompute="full", optimizer=DISTRIBUTED),
    "distributed, recomputed": scenario(recompute="selective", optimizer=DISTRIBUTED),
    "tied copies": scenario(model=TIED),
    "tied pipeline": scenario(model=TIED, parallel={"pipeline": 2}),
    "gpt2 copies": scenario(model=GPT2),
    "gpt2 halves": scenario(model=GPT2, parallel=HALVES, recompute="full"),
    "gpt2 pipeline, held out": scenario(model=GPT2, parallel={"pipeline": 2}, held_out=True),
    "bf16": scenario(precision="bf16"),
    "fp16": scenario(precision="fp16", parallel={"pipeline": 2}, optimizer=DISTRIBUTED),
    **cut_and_whole("distributed with dropout", model=DROPOUT, optimizer=DISTRIBUTED),
    **cut_and_whole("interleaved with dropout", model=DROPOUT, parallel=INTERLEAVED, precision="fp16"),
    "half way": scenario(2, parallel={"tensor": 2}, save="half way"),
    "half way to copies": scenario(2, load="half way"),
    "half way to interleaved": scenario(2, parallel=INTERLEAVED, load="half way"),
    "distributed half way": scenario(2, optimizer=DISTRIBUTED, save="distributed half way"),
    "distributed to halves": scenario(2, optimizer=DISTRIBUTED, parallel=HALVES, load="distributed half way"),
    "distributed to pipeline": scenario(
        2, optimizer=DISTRIBUTED, parallel={"pipeline": 2}, load="distributed half way"
    ),
    "ramp": scenario(8, batch=RAMP, optimizer=PLAIN | {"schedule": "linear", "min_learning_rate": 0}),
    "wsd": scenario(8, optimizer=PLAIN | {"schedule": "wsd", "decay_steps": 4, "min_learning_rate": 1e-3}),
    "constant": scenario(6, optimizer=PLAIN | {"schedule": "constant"}),
}
FOUR_RANKS = {
    "halves of stages": scenario(ranks=4, parallel=HALVES | INTERLEAVED, optimizer=DISTRIBUTED),
    "copies of stages": scenario(
        ranks=4, parallel=INTERLEAVED, batch={"global_samples": 8, "micro_samples": 2}, optimizer=DISTRIBUTED
    ),
}


def train(folder: Path, scenarios: dict[str, Any], ranks: int) -> dict[str, Any]:
    job = folder / "job.json"
    job.write_text(json.dumps({"scenarios": scenarios}), "utf-8")
    run_ranks(
        "engine_ranks", [str(job)], ranks, {"PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parents[1]}"}
    )
    return dict(json.loads((folder / "results.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks found in every scenario, by name."""
    return train(tmp_path_factory.mktemp("two"), SCENARIOS, 2)


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("halves", "copies"),
        ("interleaved", "copies"),
        ("interleaved, all repairs", "copies"),
        ("distributed, recomputed", "copies"),
        ("tied pipeline", "tied copies"),
        ("gpt2 halves", "gpt2 copies"),
    ],
)
def test_every_layout_trains_the_same_model(found: dict[str, Any], name: str, same_as: str) -> None:
    assert found[name]["losses"] == pytest.approx(found[same_as]["losses"], rel=1e-5)
    assert found[name]["norms"] == pytest.approx(found[same_as]["norms"], rel=1e-4)


def test_four_ranks_in_two_directions_train_the_same_model(found: dict[str, Any], tmp_path: Path) -> None:
    four = train(tmp_path, FOUR_RANKS, 4)
    for name in FOUR_RANKS:
        assert four[name]["losses"] == pytest.approx(found["copies"]["losses"], rel=1e-5)


def test_validation_leaves_no_trace_in_the_training(found: dict[str, Any]) -> None:
    both = found["gpt2 pipeline, held out"]["losses"]
    assert both[1::2] == pytest.approx(found["gpt2 copies"]["losses"], rel=1e-5)
    assert both[0] != both[1]


@pytest.mark.parametrize("name", ["distributed with dropout", "interleaved with dropout"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(found: dict[str, Any], name: str) -> None:
    parts = found[f"{name}, first"]["losses"] + found[f"{name}, second"]["losses"]
    assert parts == found[name]["losses"]
    assert len(set(parts)) == 4


@pytest.mark.parametrize(
    "name", ["half way to copies", "half way to interleaved", "distributed to halves", "distributed to pipeline"]
)
def test_another_layout_goes_on_where_one_stopped(found: dict[str, Any], name: str) -> None:
    assert found[name]["losses"] == pytest.approx(found["copies"]["losses"][2:], rel=1e-5)


@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 2e-3), ("fp16", 2e-3)])
def test_half_precision_trains_nearly_the_same(found: dict[str, Any], name: str, tolerance: float) -> None:
    assert found[name]["losses"] == pytest.approx(found["copies"]["losses"], rel=tolerance)
    assert found[name]["losses"] != found["copies"]["losses"]
    assert all(math.isfinite(norm) for norm in found[name]["norms"])  # no step was skipped


def test_the_schedules_go_where_they_say(found: dict[str, Any]) -> None:
    assert found["constant"]["rates"] == pytest.approx([2.5e-3, 3.75e-3, *[5e-3] * 4])
    wsd = found["wsd"]["rates"]
    assert wsd[2:5] == pytest.approx([5e-3] * 3)
    assert wsd[5:] == pytest.approx([4e-3, 3e-3, 2e-3])
    assert found["copies"]["rates"][2:] == pytest.approx([5e-3, 0.15e-3 + 4.85e-3 * (1 + math.cos(math.pi / 6)) / 2])


def test_a_growing_batch_takes_the_samples_it_says(found: dict[str, Any]) -> None:
    ramp = found["ramp"]  # 4 4 | 8 8 (16 not past) | 12 ...
    assert ramp["consumed"] == 4 + 4 + 8 + 12 * 5
    assert ramp["rates"][2] > ramp["rates"][3] > ramp["rates"][7] > 0
