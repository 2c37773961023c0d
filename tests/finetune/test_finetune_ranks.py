"""What is learnt must not depend on how many ranks learn it, and by which engine."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.core.launch import run_ranks
from easyllm.core.models import local_model
from easyllm.finetune.assembly import assemble
from easyllm.finetune.rows import prepare
from easyllm.finetune.run import _work
from tiny_tune import FINETUNE, make_job, write_base, write_rows

STEPS = 6
COMMON: dict[str, Any] = {
    "validation_rows": 3, "validation": {"every_steps": 3}, "checkpoint_every_steps": 3, "max_steps": STEPS,
    "weight_decay": 0.1, "learning_rate": 0.003,
}  # fmt: skip
ENGINES: dict[str, dict[str, Any]] = {
    "ddp-lora": {"engine": "ddp"},
    "ddp-full": {"engine": "ddp", "method": "full"},
    "fsdp-lora": {"engine": "fsdp"},
    "fsdp-full": {"engine": "fsdp", "method": "full", "packing": False},
    **{f"zero{z}-lora": {"engine": "deepspeed", "deepspeed": {"zero": z}} for z in (0, 1, 3)},
    "zero2-cpu-adam-lora": {"engine": "deepspeed", "deepspeed": {"zero": 2, "offload_optimizer": "cpu"}},
    "zero2-cpu-adam-full": {
        "engine": "deepspeed", "method": "full", "deepspeed": {"zero": 2, "offload_optimizer": "cpu"},
    },
    "zero3-cpu-adam-full": {
        "engine": "deepspeed", "method": "full", "deepspeed": {"zero": 3, "offload_optimizer": "cpu"},
    },
}  # fmt: skip


def work_of(folder: Path, **changes: Any) -> Any:
    config = FINETUNE | COMMON | changes
    if config.get("method") == "full":
        config.pop("lora")
    job = make_job(folder, "finetune", config)
    job.out.mkdir(parents=True, exist_ok=True)
    directory = local_model(job.inputs["base"], job.cache_dir, job.stage)
    plain = replace(job, config=job.config.model_copy(update={"engine": "ddp"}))  # the fixture has compiled CPU Adam
    return replace(_work(plain, directory, prepare(job, directory), "cpu", "float32"), config=job.config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cpu_adam: Path | None) -> tuple[Path, Any, Any]:
    """(folder with the weights of each, curves of two ranks, curves of one plain rank by method)."""
    folder = tmp_path_factory.mktemp("ranks")
    write_base(folder / "base")
    write_rows(folder / "rows.jsonl")
    scenarios = {}
    for name, changes in ENGINES.items():
        work = replace(work_of(folder, ranks=2, **changes), state=folder / f"state-{name}", library=cpu_adam)
        scenarios[name] = str(work.write(folder / name))
    (folder / "scenarios.json").write_text(json.dumps(scenarios), "utf-8")
    path = f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    run_ranks("finetune_ranks", [str(folder)], 2, {"PYTHONPATH": path})
    plain = {}
    for method in ("lora", "full"):
        ready = assemble(replace(work_of(folder, method=method), state=folder / f"plain-{method}"))
        ready.training.run()
        plain[method] = [[row.loss, row.gradient_norm, row.held_out_loss] for row in ready.training.rows]
        torch.save(ready.training.weights(), folder / f"plain-{method}.pt")
    return folder, json.loads((folder / "results.json").read_text("utf-8")), plain


@pytest.mark.parametrize("name", ENGINES)
def test_two_ranks_learn_what_one_learns(trained: Any, name: str) -> None:
    folder, results, plain = trained
    method = name.rpartition("-")[2]
    limit = 1e-5 if name.startswith("ddp") else 1e-4
    assert len(results[name]["whole"]) == STEPS
    for found, wanted in zip(results[name]["whole"], plain[method], strict=True):
        measured, same = ([value for value in row if value is not None] for row in (found, wanted))
        assert measured == pytest.approx(same, rel=limit)
    weights, same = (torch.load(folder / file) for file in (f"whole-{name}.pt", f"plain-{method}.pt"))
    assert weights.keys() == same.keys()
    for key, value in same.items():
        torch.testing.assert_close(weights[key], value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ENGINES)
def test_ranks_that_were_cut_go_on_as_if_nothing_had_been(trained: Any, name: str) -> None:
    folder, results, _ = trained
    before, after = (torch.tensor([row[:2] for row in results[name][part]]) for part in ("whole", "resumed"))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)
    weights = [torch.load(folder / f"{part}-{name}.pt") for part in ("whole", "resumed")]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, atol=1e-6, rtol=0)
