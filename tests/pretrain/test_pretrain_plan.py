"""``easyllm plan`` of pretraining: the estimate as a user reads it, and the layouts that fit his GPUs."""

import json
from pathlib import Path

SEVEN_B = (
    "pretrain.model.layers=32", "pretrain.model.hidden=4096", "pretrain.model.heads=32", "pretrain.model.kv_heads=8",
    "pretrain.model.ffn_hidden=11008", "pretrain.sequence_tokens=4096", "pretrain.batch.micro_samples=1",
    "pretrain.batch.global_samples=64",
)  # fmt: skip


def test_the_plan_says_memory_by_part_work_and_time_with_their_sources(easyllm, tiny: Path) -> None:
    text = easyllm("plan", tiny, "pretrain").stdout
    for part in ("weights", "gradients", "optimizer", "activations"):
        assert f"{part} per rank, bytes: " in text
    for source in ("arXiv:1910.02054", "counted on a CPU", "arXiv:2104.04473"):
        assert source in text
    assert "time = not given: it needs a peak" in text
    assert "1 TFLOPS" in easyllm("plan", tiny, "pretrain", "pretrain.peak_tflops=1").stdout


def test_a_table_names_the_layouts_that_fit_and_says_when_none_does(easyllm, tiny: Path) -> None:
    table = ("plan", tiny, "pretrain", *SEVEN_B, "--gpus", "8", "--gpu-memory")
    found = json.loads(easyllm(*table, "80", "--json").stdout)["layouts"]
    assert found
    assert all(row["bytes"]["total"] <= 72e9 for row in found)
    assert found[0]["recompute"] == "none"
    lines = easyllm(*table, "80").stdout.partition("Layouts that fit 8 GPUs of 80 GB")[2].splitlines()
    assert lines[1].split() == [
        "tensor", "pipeline", "data", "states", "recompute", "total", "weights", "gradients", "optimizer",
        "activations",
    ]  # fmt: skip
    assert "No layout fits 8 GPUs of 8 GB" in easyllm(*table, "8").stdout


def test_zero_and_offload_are_part_of_the_estimate(easyllm, tiny: Path) -> None:
    def figures(*changes: str) -> list[int]:
        done = easyllm("plan", tiny, "pretrain", "pretrain.engine=deepspeed", *changes, "--json")
        [row] = json.loads(done.stdout)["stages"]
        return [row["figures"][f"{part} per rank, bytes"] for part in ("weights", "gradients", "optimizer")]

    whole, shared = figures("pretrain.deepspeed.zero_stage=0"), figures("pretrain.deepspeed.zero_stage=3")
    assert shared[:2] == [part // 2 for part in whole[:2]]
    assert shared[2] == 6 * whole[0] // 4, "two ranks share an fp32 copy and two moments"
    assert figures("pretrain.deepspeed.zero_stage=1", "pretrain.deepspeed.offload_optimizer=cpu")[2] == 0


def test_a_model_too_large_for_this_disk_is_planned_all_the_same(easyllm, tiny: Path) -> None:
    large = ("pretrain.model.layers=2000", "pretrain.model.hidden=40000", "pretrain.model.heads=400",
             "pretrain.model.kv_heads=400")  # fmt: skip
    done = easyllm("plan", tiny, "pretrain", *large)
    assert "RUN-003" in done.stderr
    assert "weights per rank" in done.stdout
    assert "RUN-003" in easyllm("check", tiny, *large, expect=2).stderr


def test_gpus_without_their_memory_are_refused(easyllm, tiny: Path) -> None:
    assert "PLAN-001" in easyllm("plan", tiny, "--gpus", "8", expect=2).stderr
    assert "PLAN-001" in easyllm("plan", tiny, "--gpu-memory", "80", expect=2).stderr
