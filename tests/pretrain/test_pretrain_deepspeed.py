"""Engine deepspeed trains what engine megatron trains, and goes on from its checkpoints: real ranks over gloo."""

import json
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.launch import run_ranks

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
LLAMA = {"family": "llama", "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn_hidden": 48, "init_std": 0.1}
GPT2 = {"family": "gpt2", "layers": 2, "hidden": 32, "heads": 4, "init_std": 0.1}
DROPOUT = LLAMA | {"dropout": 0.1}
HALVES = {"tensor": 2}
PLAIN = {"learning_rate": 5e-3, "warmup_steps": 2}
RAMP = {"global_samples": 12, "micro_samples": 2, "ramp": {"from_samples": 4, "by_samples": 4, "over_samples": 16}}
STEPS = 20
STAGES = (0, 1, 2, 3)


def scenario(steps: int = 4, load: str = "", save: str = "", held_out: bool = False, **changes: Any) -> dict[str, Any]:
    """What ``engine_ranks`` runs; engine megatron unless ``changes`` say otherwise."""
    config: dict[str, Any] = {
        "model": LLAMA, "sequence_tokens": 16, "batch": {"global_samples": 8, "micro_samples": 2}, "ranks": 2,
        "steps": STEPS, "optimizer": PLAIN, "device": "cpu",
    }  # fmt: skip
    found: dict[str, Any] = {"config": config | changes, "steps": steps, "held_out": held_out}
    return found | ({"load": load} if load else {}) | ({"save": save} if save else {})


def zero(stage: int, steps: int = 4, offload: str = "none", **changes: Any) -> dict[str, Any]:
    """The same with engine deepspeed."""
    section = {"zero_stage": stage, "offload_optimizer": offload}
    return scenario(steps, engine="deepspeed", deepspeed=section, **changes)


def cut_and_whole(name: str, stage: int, **changes: Any) -> dict[str, Any]:
    """Four steps in one go, and two and two with a checkpoint between."""
    return {
        name: zero(stage, **changes),
        f"{name}, first": zero(stage, 2, save=name, **changes),
        f"{name}, second": zero(stage, 2, load=name, **changes),
    }


EXACT = {
    **{f"ZeRO {stage}": {"stage": stage} for stage in STAGES},
    "offloaded": {"stage": 2, "offload": "cpu"},
    "offloaded weights too": {"stage": 3, "offload": "cpu"},
    "bf16": {"stage": 2, "precision": "bf16"},
    "bf16, ZeRO 3": {"stage": 3, "precision": "bf16"},
}
"""Cut and resumed, with dropout."""
SCENARIOS: dict[str, Any] = {
    "megatron": scenario(STEPS),
    **{f"twenty steps of ZeRO {stage}": zero(stage, STEPS) for stage in STAGES},
    "twenty steps of ZeRO 1 in halves": zero(1, STEPS, parallel=HALVES),
    "twenty steps of ZeRO 3 in halves": zero(3, STEPS, parallel=HALVES, recompute="full"),
    "twenty steps offloaded": zero(2, STEPS, offload="cpu"),
    **{key: value for name, how in EXACT.items() for key, value in cut_and_whole(name, model=DROPOUT, **how).items()},
    "megatron, gpt2": scenario(model=GPT2),
    "gpt2, held out": zero(3, model=GPT2, held_out=True),
    "megatron, tied": scenario(model=LLAMA | {"tie_embeddings": True}),
    "tied": zero(2, model=LLAMA | {"tie_embeddings": True}, parallel=HALVES),
    "megatron, ramp": scenario(8, batch=RAMP),
    "ramp of ZeRO 0": zero(0, 8, batch=RAMP),
    "ramp of ZeRO 3": zero(3, 8, batch=RAMP),
    "megatron, unclipped": scenario(optimizer=PLAIN | {"clip_grad": 0}),
    "unclipped": zero(0, optimizer=PLAIN | {"clip_grad": 0}),
    "megatron, bf16": scenario(precision="bf16"),
    "no dropout in bf16": zero(1, precision="bf16"),
    "half way": zero(3, 2, save="half way"),
    "half way to halves of ZeRO 1": zero(1, 2, load="half way", parallel=HALVES),
    "half way to ZeRO 0": zero(0, 2, load="half way"),
    "half way in halves": zero(2, 2, save="half way in halves", parallel=HALVES),
    "half way to ZeRO 3": zero(3, 2, load="half way in halves"),
}
ONE_RANK = {
    "one rank": zero(3, 2, ranks=1, load="half way"),
    "one whole of two halves": zero(0, 2, ranks=1, load="half way in halves"),
}


@pytest.fixture(scope="session")
def cpu_adam(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """DeepSpeed's CPU Adam, compiled once a test run as the stage does it, but without the optimizer's minutes."""
    from easyllm.core.deepspeed_ops import prebuild

    folder = tmp_path_factory.mktemp("cpu-adam")
    compiler = folder / "c++-unoptimised"
    compiler.write_text('#!/bin/sh\nexec c++ "$@" -O0 -g0\n', "utf-8")
    compiler.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", str(compiler))
        return prebuild(folder, "cpu")


def train(folder: Path, scenarios: dict[str, Any], ranks: int, library: Path | None) -> dict[str, Any]:
    job = folder / "job.json"
    job.write_text(json.dumps({"scenarios": scenarios, "library": str(library) if library else None}), "utf-8")
    run_ranks("engine_ranks", [str(job)], ranks, {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"})
    return dict(json.loads((folder / "results.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checkpoints of all scenarios stand."""
    return tmp_path_factory.mktemp("deepspeed")


@pytest.fixture(scope="module")
def found(folder: Path, cpu_adam: Path | None) -> dict[str, Any]:
    """What two ranks found in every scenario, by name."""
    return train(folder, SCENARIOS, 2, cpu_adam)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("twenty")])
def test_both_engines_have_the_same_losses_for_twenty_steps(found: dict[str, Any], name: str) -> None:
    assert len(found[name]["losses"]) == 20
    assert found[name]["losses"] == pytest.approx(found["megatron"]["losses"], rel=1e-4)
    assert found[name]["norms"] == pytest.approx(found["megatron"]["norms"], rel=1e-3)
    assert found[name]["rates"] == found["megatron"]["rates"]


@pytest.mark.parametrize("name", EXACT)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(found: dict[str, Any], name: str) -> None:
    parts = found[f"{name}, first"]["losses"] + found[f"{name}, second"]["losses"]
    assert parts == found[name]["losses"]
    assert len(set(parts)) == 4


@pytest.mark.parametrize("name", ["half way to halves of ZeRO 1", "half way to ZeRO 0", "half way to ZeRO 3"])
def test_another_layout_or_stage_goes_on_where_one_stopped(found: dict[str, Any], name: str) -> None:
    assert found[name]["losses"] == pytest.approx(found["megatron"]["losses"][2:4], rel=1e-5)


def test_one_rank_goes_on_where_two_stopped(found: dict[str, Any], folder: Path, cpu_adam: Path | None) -> None:
    one = train(folder, ONE_RANK, 1, cpu_adam)
    for name in ONE_RANK:
        assert one[name]["losses"] == pytest.approx(found["megatron"]["losses"][2:4], rel=1e-5)


def test_validation_leaves_no_trace_in_the_training(found: dict[str, Any]) -> None:
    both = found["gpt2, held out"]["losses"]
    assert both[1::2] == pytest.approx(found["megatron, gpt2"]["losses"], rel=1e-5)
    assert both[0] != both[1]


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("tied", "megatron, tied"),
        ("ramp of ZeRO 0", "megatron, ramp"),
        ("ramp of ZeRO 3", "megatron, ramp"),
        ("unclipped", "megatron, unclipped"),
    ],
)
def test_everything_else_a_recipe_asks_for_is_the_same_too(found: dict[str, Any], name: str, same_as: str) -> None:
    assert found[name]["losses"] == pytest.approx(found[same_as]["losses"], rel=1e-5)
    assert found[name]["norms"] == pytest.approx(found[same_as]["norms"], rel=1e-4)
    assert (found[name]["rates"], found[name]["consumed"]) == (found[same_as]["rates"], found[same_as]["consumed"])


def test_bf16_trains_nearly_the_same(found: dict[str, Any]) -> None:
    bf16 = found["no dropout in bf16"]["losses"]
    assert bf16 == pytest.approx(found["megatron, bf16"]["losses"], rel=2e-3)
    assert bf16 == pytest.approx(found["megatron"]["losses"][:4], rel=2e-3)
