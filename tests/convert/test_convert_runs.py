"""Conversion for real: a trained checkpoint becomes a model that stock transformers loads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.convert.checks import check
from easyllm.convert.config import ConvertConfig
from easyllm.convert.plan import plan
from easyllm.convert.run import run
from easyllm.core.errors import StageFailed
from easyllm.core.families import mapping
from easyllm.core.inputs import Input
from easyllm.core.stage import Job
from tiny_megatron import artifact_input, trained, write_manifest


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


def convert_job(checkpoint: Path, out: Path) -> Job[ConvertConfig]:
    out.mkdir(exist_ok=True)
    return Job(
        stage="convert",
        config=ConvertConfig(),
        inputs={"checkpoint": artifact_input("checkpoint", checkpoint)},
        seed=1,
        recipe="test",
        run_dir=out.parent,
        cache_dir=out.parent,
        out=out,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "zero", "zero-3"])
def test_a_trained_checkpoint_loads_in_stock_transformers(base: Path, tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = run(convert_job(trained(base, name), tmp_path / "hf"))
    report = json.loads((tmp_path / "hf" / "parity.json").read_text())
    assert report == result.records["parity"]
    assert report["holds"]
    assert report["max_logit_difference"] < 1e-4
    assert result.records["ledger"]["tokenizer_size"] == 1000
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert model.get_input_embeddings().weight.shape == (1000, 64)
    ids = tokenizer("The name is bound to", return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert out.shape[1] > ids.shape[1]
    assert tokenizer.model_max_length == 32


@pytest.mark.slow
def test_a_checkpoint_of_two_halves_converts_to_the_same_model_as_one_of_a_single_rank(
    base: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    weights: list[dict[str, Any]] = []
    for name in ("one-rank", "tensor-parallel"):
        run(convert_job(trained(base, name), tmp_path / name))
        weights.append(AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict())
    one, halves = weights
    assert one.keys() == halves.keys()
    # Trained apart, so equal only as far as sums in another order are; a misplaced half would differ by 0.02.
    for key in one:
        torch.testing.assert_close(halves[key], one[key], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_a_model_written_in_another_dtype_is_proven_in_that_one(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    job = convert_job(trained(base, "one-rank"), tmp_path / "hf")
    result = run(replace(job, config=ConvertConfig(dtype="bf16")))
    assert {tensor.dtype for tensor in load_file(tmp_path / "hf" / "model.safetensors").values()} == {torch.bfloat16}
    assert result.records["parity"]["holds"]
    assert result.records["parity"]["stored"]["dtype"] == "bfloat16"


@pytest.mark.slow
def test_a_wrong_mapping_fails_the_stage(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_hf, to_megatron = mapping.HOW["qkv"]

    def swapped(fused: torch.Tensor, a: Any) -> tuple[torch.Tensor, ...]:
        q, k, v = to_hf(fused, a)
        q = q.clone()
        q[[0, 1]] = q[[1, 0]]
        return q, k, v

    from easyllm.convert import trace

    monkeypatch.setattr(trace, "HOW", dict(mapping.HOW))  # the tracing of a difference is not what is broken
    monkeypatch.setitem(mapping.HOW, "qkv", (swapped, to_megatron))
    named = r"decoder\.layers\.0\.self_attention\.linear_qkv\.weight / model\.layers\.0\.self_attn\.q_proj\.weight"
    with pytest.raises(StageFailed, match=f"PARITY-004  Megatron-Core and transformers part at {named}"):
        run(convert_job(trained(base, "one-rank"), tmp_path / "hf"))
    assert not (tmp_path / "hf" / "parity.json").exists()


def checkpoint_with(tmp_path: Path, records: dict[str, Any]) -> Job[ConvertConfig]:
    path = tmp_path / "checkpoint"
    path.mkdir()
    write_manifest(path, "checkpoint", "pretrain", records)
    return convert_job(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ({}, "records.architecture is missing"),
        ({"architecture": {"family": "llama"}}, "missing"),
        ({"architecture": {"surprise": 1}}, "surprise"),
    ],
)
def test_a_checkpoint_that_does_not_say_what_it_holds_is_refused(
    tmp_path: Path, records: dict[str, Any], reason: str
) -> None:
    (found,) = check(checkpoint_with(tmp_path, records))
    assert found.code == "CONVERT-001"
    assert reason in str(found)


def test_before_the_checkpoint_is_made_nothing_is_refused_and_the_plan_says_so(tmp_path: Path) -> None:
    waiting = Input("checkpoint", "pretrain", "artifact", stage="pretrain")
    job = Job("convert", ConvertConfig(), {"checkpoint": waiting}, 1, "test", tmp_path, tmp_path, tmp_path)
    assert check(job) == []
    assert plan(job).figures == {"parameters": "known once the checkpoint is made"}
