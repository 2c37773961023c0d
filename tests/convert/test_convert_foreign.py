"""Checkpoints that Megatron-Core's own models leave under any layout, read back bit by bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyllm.convert.foreign import open_checkpoint
from easyllm.convert.megatron_args import arguments_of
from easyllm.convert.torch_dist import TorchDist, common_values
from easyllm.core.families.weights import Weights
from easyllm.core.launch import run_ranks
from easyllm.core.megatron.architecture import Architecture
from saving_ranks import Saved, write_job

TESTS = Path(__file__).parents[1]
LLAMA = Architecture(
    family="llama", layers=4, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn_hidden=48, norm="RMSNorm",
    norm_epsilon=1e-6, positions="rope", rope_theta=500000.0, max_positions=64, tie_embeddings=False, biases=False,
    gated=True, activation="silu", init_std=0.02, dropout=0.0, tokenizer_size=200, padded_vocabulary=256,
    tensor_parallel=2,
)  # fmt: skip
QWEN3 = replace(LLAMA, family="qwen3", qk_norm=True, tie_embeddings=True, layers=2)
GPT2 = replace(
    LLAMA, family="gpt2", kv_heads=4, ffn_hidden=128, norm="LayerNorm", norm_epsilon=1e-5,
    positions="learned_absolute", rope_theta=None, tie_embeddings=True, biases=True, gated=False,
    activation="gelu_tanh", layers=2,
)  # fmt: skip


def made(a: Architecture, *rest: Any) -> Saved:
    arguments = arguments_of(a)
    assert arguments is not None
    return Saved(a.as_record(), vars(arguments), *rest)


JOBS = {
    "llama-tensor": made(LLAMA, {"tensor": 2}),
    "llama-interleaved": made(LLAMA, {"pipeline": 2, "virtual_pipeline": 2}, "threads"),
    "llama-apart": made(LLAMA, {"tensor": 2}, "threads", {"singleton_local_shards": True}),
    "qwen3-pipeline": made(QWEN3, {"pipeline": 2}, "threads"),
    "gpt2-tensor": made(GPT2, {"tensor": 2, "sequence": True}, "threads"),
    "llama-ranks-tensor": made(LLAMA, {"tensor": 2}, "ranks"),
    "llama-ranks-interleaved": made(LLAMA, {"pipeline": 2, "virtual_pipeline": 2}, "ranks"),
    "gpt2-ranks-pipeline": made(GPT2, {"pipeline": 2}, "ranks"),
    "gpt2-ranks-tensor": made(GPT2, {"tensor": 2}, "ranks"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every checkpoint of JOBS, by one start of two ranks."""
    out = tmp_path_factory.mktemp("saved")
    write_job(out / "job.json", JOBS)
    run_ranks("saving_ranks", [str(out / "job.json")], 2, {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"})
    return out


def assert_same(found: Weights, path: Path) -> None:
    """Names, shapes, dtypes and every bit."""
    wanted = load_file(path)
    assert sorted(found.names()) == sorted(wanted)
    for name in found.names():
        assert found.shape(name) == tuple(wanted[name].shape)
        assert found.dtype(name) == wanted[name].dtype
        assert torch.equal(found.read(name), wanted[name]), name


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job.how != "ranks"])
def test_a_distributed_checkpoint_of_any_layout_reads_as_one_rank_would_have_saved_it(saved: Path, name: str) -> None:
    directory = saved / name / "iter_0000012"
    assert_same(TorchDist(directory), saved / f"{name}.safetensors")
    assert common_values(directory)["iteration"] == 12


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job.how == "ranks"])
def test_a_checkpoint_of_a_file_a_rank_reads_as_one_rank_would_have_saved_it(saved: Path, name: str) -> None:
    opened = open_checkpoint(saved / name)
    assert_same(opened.weights, saved / f"{name}.safetensors")
    assert opened.step == 12


@pytest.mark.parametrize("name", ["llama-tensor", "qwen3-pipeline", "gpt2-tensor", "llama-ranks-interleaved"])
def test_the_architecture_of_a_foreign_checkpoint_comes_from_its_arguments_and_is_told(saved: Path, name: str) -> None:
    opened = open_checkpoint(saved / name, tokenizer_size=200)
    wanted = Architecture.from_record(JOBS[name].architecture)
    assert replace(opened.architecture, tensor_parallel=wanted.tensor_parallel) == wanted
    told = " ".join(opened.inferred)
    assert f"written as {wanted.family}" in told
    assert "200 of 256 vocabulary rows are kept: the tokenizer" in told
    from_arguments = open_checkpoint(saved / name)
    assert from_arguments.architecture.tokenizer_size == 200
    assert "vocab_size says so" in " ".join(from_arguments.inferred)
