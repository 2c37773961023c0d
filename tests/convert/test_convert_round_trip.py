"""Hugging Face to Megatron and back, and Megatron there and back, for every family: the same bits, file to file."""

from pathlib import Path

import pytest
import torch

from easyllm.convert.foreign import open_checkpoint
from easyllm.convert.torch_dist import TorchDist
from easyllm.convert.write_megatron import write_checkpoint
from easyllm.core.families.config import read_architecture
from easyllm.core.families.mapping import AsHf, AsMegatron
from easyllm.core.families.shards import write_shards
from easyllm.core.families.weights import HfFiles, Weights
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.files import SAVED
from tiny_families import CASES, make_model

SHARD_BYTES = 100_000


def assert_same(found: Weights, wanted: Weights) -> None:
    """Names, shapes, dtypes and every bit."""
    assert sorted(found.names()) == sorted(wanted.names())
    for name in wanted.names():
        assert found.shape(name) == wanted.shape(name), name
        assert found.dtype(name) == wanted.dtype(name), name
        assert torch.equal(found.read(name), wanted.read(name)), name


def as_checkpoint(hf: Path, a: Architecture, out: Path) -> Path:
    out.mkdir()
    saved = {"architecture": a.as_record(), "step": 0, "consumed": 0}
    write_checkpoint(AsMegatron(HfFiles(hf), a), out, {SAVED: saved, "checkpoint_version": 3.0, "iteration": 0})
    return out


@pytest.mark.parametrize("case", CASES)
def test_a_model_and_a_checkpoint_go_there_and_back_bit_by_bit(tmp_path: Path, case: str) -> None:
    dtype = {"llama": "bfloat16", "gpt2": "float16"}.get(case, "float32")
    model = make_model(case, tmp_path / "model", dtype)
    a = read_architecture(model, "convert", "convert.model", tensor_parallel=2)
    first = as_checkpoint(model, a, tmp_path / "first")
    opened = open_checkpoint(first)
    assert opened.architecture == a
    back = tmp_path / "back"
    back.mkdir()
    largest = write_shards(AsHf(opened.weights, opened.architecture), back, SHARD_BYTES)
    assert len(list(back.glob("*.safetensors"))) > 1
    assert largest == max(file.stat().st_size for file in back.glob("*.safetensors"))
    assert_same(HfFiles(back), HfFiles(model))
    assert_same(TorchDist(as_checkpoint(back, a, tmp_path / "second")), TorchDist(first))
