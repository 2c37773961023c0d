"""Engine deepspeed before a rank starts: what is refused, the JSON that is made of a recipe, the compiled op."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from easyllm.core import deepspeed_ops
from easyllm.core.errors import StageFailed, UserError
from easyllm.core.inputs import Input
from easyllm.core.stage import Job
from easyllm.pretrain.checks import check
from easyllm.pretrain.config import PretrainConfig
from tiny_megatron import pretrain_job
from tiny_pipeline import tiny_recipe

BF16 = {"precision": "bf16"}


def job(folder: Path, theirs: str | None = None, **changes: Any) -> Job[PretrainConfig]:
    """A good job with engine deepspeed but for ``changes``; ``theirs`` is the user's own JSON."""
    made = pretrain_job(None, folder / "out", **{"engine": "deepspeed"} | changes)
    if theirs is None:
        return made
    file = folder / "ds.json"
    file.write_text(theirs, "utf-8")
    found = Input("deepspeed.config", "ds.json", "files", files=(file,), digest="x")
    return Job(**vars(made) | {"inputs": {**made.inputs, "deepspeed.config": found}})


@pytest.mark.parametrize(
    ("code", "key", "changes"),
    [
        ("PRETRAIN-071", "parallel.pipeline", {"parallel": {"pipeline": 2}}),
        ("PRETRAIN-071", "parallel.sequence", {"parallel": {"tensor": 2, "sequence": True}}),
        ("PRETRAIN-072", "optimizer.distributed", {"optimizer": {"warmup_steps": 2, "distributed": True}}),
        ("PRETRAIN-073", "deepspeed", {"engine": "megatron", "deepspeed": {"zero_stage": 2}}),
        ("PRETRAIN-076", "deepspeed.zero_stage", {"deepspeed": {"zero_stage": 0}} | BF16),
        ("PRETRAIN-077", "deepspeed.offload_optimizer", {"deepspeed": {"zero_stage": 0, "offload_optimizer": "cpu"}}),
        ("PRETRAIN-080", "precision", {"precision": "fp16"}),
    ],
)
def test_what_deepspeed_cannot_do_is_refused_by_name(
    tmp_path: Path, code: str, key: str, changes: dict[str, Any]
) -> None:
    assert [(found.code, found.key) for found in check(job(tmp_path, **changes))] == [(code, f"pretrain.{key}")]


def test_context_parallel_and_interleaving_are_refused_by_name(tmp_path: Path) -> None:
    found = check(job(tmp_path, parallel={"context": 2, "pipeline": 2, "virtual_pipeline": 2}))
    names = [problem.params["name"] for problem in found if problem.code == "PRETRAIN-071"]
    assert names == ["pipeline", "virtual_pipeline", "context"]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_good_section_is_good(tmp_path: Path, stage: int) -> None:
    assert check(job(tmp_path, parallel={"tensor": 2}, deepspeed={"zero_stage": stage})) == []


def test_a_machine_without_the_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name))
    assert [found.code for found in check(job(tmp_path))] == ["PRETRAIN-070"]


@pytest.mark.parametrize("text", ['{"bf16": ', "[]"])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    [found] = check(job(tmp_path, text))
    assert found.code == "PRETRAIN-075"
    assert "ds.json" in str(found)


def test_all_conflicts_of_a_users_json_are_named_together(tmp_path: Path) -> None:
    theirs = {
        "train_batch_size": 64,
        "gradient_clipping": 1.0,
        "train_micro_batch_size_per_gpu": "auto",
        "optimizer": {"type": "AdamW"},
        "fp16": {"enabled": True},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": 500, "offload_optimizer": {"device": "cpu"}},
        "wall_clock_breakdown": False,
    }
    found = check(job(tmp_path, json.dumps(theirs), precision="fp32"))
    assert {problem.code for problem in found} == {"PRETRAIN-074"}
    assert [(problem.params["name"], problem.params["theirs"], problem.params["ours"]) for problem in found] == [
        ("train_batch_size", "64", "8"),
        ("optimizer", '{"type": "AdamW"}', "null"),
        ("fp16.enabled", "true", "false"),
        ("zero_optimization.stage", "3", "1"),
        ("zero_optimization.offload_optimizer", '{"device": "cpu"}', "null"),
    ]


def test_a_key_that_deepspeed_would_read_over_in_silence_is_refused(tmp_path: Path) -> None:
    theirs = {"zero_optimisation": {}, "zero_optimization": {"offload_param": {"device": "cpu"}, "overlap_comm": True}}
    found = check(job(tmp_path, json.dumps(theirs)))
    assert [(problem.code, problem.params["name"]) for problem in found] == [
        ("PRETRAIN-081", "zero_optimisation"),
        ("PRETRAIN-081", "zero_optimization.offload_param"),
    ]


GOLDEN: dict[str, Any] = {
    "train_batch_size": 8,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 0.5,
    "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 1000},
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": True,
    "bf16": {"enabled": True},
    "fp16": {"enabled": False},
    "data_types": {"grad_accum_dtype": "fp32"},
    "wall_clock_breakdown": True,
}
"""The tiny recipe's JSON, with what the user's own file below adds."""


def test_plan_shows_the_whole_json_with_the_users_own_keys(
    easyllm: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    own = {"zero_optimization": {"reduce_bucket_size": 1000, "stage": "auto"}, "wall_clock_breakdown": True}
    (tmp_path / "ds.json").write_text(json.dumps(own), "utf-8")
    done = easyllm(
        "plan", tiny_recipe(tmp_path), "pretrain", "--json", "pretrain.engine=deepspeed", "pretrain.precision=bf16",
        "pretrain.optimizer.clip_grad=0.5", "pretrain.deepspeed.zero_stage=2",
        "pretrain.deepspeed.offload_optimizer=cpu", "pretrain.deepspeed.config=ds.json",
    )  # fmt: skip
    [stage] = [entry for entry in json.loads(done.stdout)["stages"] if entry["stage"] == "pretrain"]
    [shown] = [entry for entry in stage["decisions"] if entry["what"] == "DeepSpeed JSON"]
    assert json.loads(shown["value"]) == GOLDEN


def test_without_a_compiler_the_reason_is_a_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed_ops, "_run", lambda *_: {"prebuilt": False})
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"PRETRAIN-078 .*no-such-compiler"):
        deepspeed_ops.prebuild(tmp_path, "cpu")


def test_what_a_killed_compilation_left_is_taken_away_and_a_failed_one_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / "ops" / f".{platform.node()}.{gone.pid}"
    at_work = tmp_path / "ops" / f".{platform.node()}.{os.getppid()}"
    for place in (left, at_work):
        (place / "cpu_adam").mkdir(parents=True)
        (place / "cpu_adam" / "lock").touch()  # torch's own, on which others would wait for ever
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(StageFailed, match=r"PRETRAIN-079 .*cpu_adam"):
        deepspeed_ops.prebuild(tmp_path, "cpu")
    assert str(left) in capfd.readouterr().err
    assert [place.name for place in (tmp_path / "ops").iterdir()] == [at_work.name]


def test_an_op_that_is_not_prebuilt_is_an_error_in_a_rank_and_compiles_nothing(tmp_path: Path) -> None:
    code = (
        "import torch.distributed as dist\n"
        "dist.init_process_group('gloo', rank=0, world_size=1, store=dist.HashStore())\n"
        "from easyllm.core.deepspeed_ops import imported\n"
        "imported('cpu', None).comm.init_distributed('gloo')\n"  # compiles its shared memory if it may
        "from deepspeed.ops.op_builder import CPUAdamBuilder\n"
        "try:\n    CPUAdamBuilder().load()\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "jit")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    assert done.stdout == "DeepSpeed wants to compile cpu_adam inside a rank: it was not prebuilt\n"
    assert done.stderr == ""
    assert not (tmp_path / "jit").exists()
