"""The estimate of a rank's memory, part by part, against what the ranks of real engines hold."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.launch import run_ranks
from easyllm.pretrain.architecture import architecture_of
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.cost import training_of
from easyllm.pretrain.estimate import logits_bytes, memory
from easyllm.pretrain.precision import choose_dtype

pytestmark = pytest.mark.slow

LLAMA = {"family": "llama", "layers": 4, "hidden": 128, "heads": 4, "kv_heads": 2, "ffn_hidden": 320}
GPT2 = {"family": "gpt2", "layers": 4, "hidden": 128, "heads": 4}
LEDGER = {"tokenizer_size": 250, "eod_id": 0}
ALIGNED = 0.02
"""Megatron pads its buffers, and a step count is a number a tensor: share of a part that they may be."""
SMALL_THINGS = 0.05
"""Of the activations: ids, positions, rotations, masks, scales, and the first dropout."""


def scenario(ranks: int, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model": LLAMA, "sequence_tokens": 16, "batch": {"global_samples": 4, "micro_samples": 2}, "ranks": ranks,
        "steps": 8, "device": "cpu", "optimizer": {"warmup_steps": 2},
    }  # fmt: skip
    return {"config": config | changes, "steps": 1, "measure": True}


DISTRIBUTED = {"distributed": True, "warmup_steps": 2}
MICRO = {"global_samples": 2, "micro_samples": 2}
"""One forward pass a step, all of whose activations are held at once."""
ONE = {
    "one rank": scenario(1, batch=MICRO, sequence_tokens=128),
    "one rank, bf16": scenario(1, batch=MICRO, precision="bf16"),
    "gpt2, dropout": scenario(1, batch=MICRO, model=GPT2 | {"dropout": 0.1}),
    "gpt2, dropout, bf16": scenario(1, batch=MICRO, model=GPT2 | {"dropout": 0.1}, precision="bf16"),
}
TWO = {
    "tensor": scenario(2, batch=MICRO, parallel={"tensor": 2}),
    "tensor and sequence": scenario(2, batch=MICRO, parallel={"tensor": 2, "sequence": True}),
    "tensor, bf16": scenario(2, parallel={"tensor": 2}, precision="bf16", model=GPT2),
    "pipeline": scenario(2, parallel={"pipeline": 2, "virtual_pipeline": 2}, model=GPT2),
    "distributed": scenario(2, optimizer=DISTRIBUTED),
    "distributed, bf16": scenario(2, optimizer=DISTRIBUTED, precision="bf16"),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for ranks, scenarios in ((1, ONE), (2, TWO)):
        folder = tmp_path_factory.mktemp(f"ranks-{ranks}")
        job = folder / "job.json"
        job.write_text(json.dumps({"scenarios": scenarios}), "utf-8")
        run_ranks("engine_ranks", [str(job)], ranks, {"PYTHONPATH": _tests_and_package()})
        found |= json.loads((folder / "results.json").read_text("utf-8"))
    return found


def _tests_and_package() -> str:
    tests = Path(__file__).parents[1]
    return f"{tests}:{tests.parent}"


@pytest.mark.parametrize("name", [*ONE, *TWO])
def test_a_rank_holds_what_the_plan_says(name: str, measured: dict[str, Any]) -> None:
    config = PretrainConfig.model_validate((ONE | TWO)[name]["config"])
    dtype, _ = choose_dtype(config.precision, "cpu")
    a = replace(architecture_of(config, LEDGER, dtype), padded_vocabulary=256)
    held, planned = measured[name]["bytes"], asdict(memory(a, training_of(config)))
    for part in ("weights", "gradients", "optimizer"):
        assert held[part] == pytest.approx(planned[part], rel=ALIGNED), part
    if config.batch == PretrainConfig.model_validate(scenario(1, batch=MICRO)["config"]).batch:
        kept = planned["activations"] - logits_bytes(a, training_of(config))  # autograd has not got their gradient yet
        assert held["activations"] == pytest.approx(kept, rel=SMALL_THINGS)
