"""Every kind of adapter, and several at once, become one model; what cannot be merged is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from easyllm.core.errors import StageFailed, UserError
from easyllm.core.lineage import text, trace
from easyllm.core.models import load_model
from easyllm.core.tuning.quantised import load_base
from easyllm.merge.weights import Merged
from tiny_families import make_model
from tiny_tune import check, make_job, publish, tell_of_files, tiny_tokenizer, tune, write_base

NF4 = {"bits": 4, "type": "nf4", "double": True, "compute_dtype": "float32"}
INT8 = {"bits": 8, "threshold": 6.0, "compute_dtype": "float32"}


def merged_report(folder: Path, **config: Any) -> dict[str, Any]:
    publish(make_job(folder, "merge", config))
    report: dict[str, Any] = json.loads((folder / "run" / "merge" / "parity.json").read_text())
    return report


@pytest.mark.parametrize(
    "lora",
    [{"rank": 4, "alpha": 8, "rslora": True}, {"rank": 4, "alpha": 8, "dora": True},
     {"rank": 4, "alpha": 8, "save_modules": ["embed_tokens"]}],
    ids=["rslora", "dora", "whole embeddings"],
)  # fmt: skip
def test_what_an_adapter_does_beside_adding_is_merged_too(tmp_path: Path, lora: dict[str, Any]) -> None:
    tune(tmp_path, lora=lora)
    report = merged_report(tmp_path)
    assert report["adapter"]["max_logit_difference"] < 1e-4 * report["adapter"]["largest_logit"]
    assert report["greedy"]["merged"] == 1.0


@pytest.mark.parametrize("family", ["bloom", "qwen3", "mistral"])
def test_adapters_of_every_family_are_merged(tmp_path: Path, family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    words = tiny_tokenizer()
    config = AutoConfig.from_pretrained(make_model(family, tmp_path / "shape"))
    config.vocab_size, config.eos_token_id = len(words), 1
    if family != "bloom":
        config.max_position_embeddings = 256
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base", max_shard_size="60KB")
    words.save_pretrained(tmp_path / "base")
    assert (tmp_path / "base" / "model.safetensors.index.json").is_file()
    tune(tmp_path)
    report = merged_report(tmp_path, shard_gb=0.0001)
    assert report["greedy"]["merged"] == report["greedy"]["stored"] == report["greedy"]["trained"] == 1.0
    out = tmp_path / "run" / "merge"
    assert len(list(out.glob("*.safetensors"))) > 1
    assert all(file.stat().st_size < 200_000 for file in out.glob("*.safetensors"))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("record", [NF4, NF4 | {"double": False, "type": "fp4"}, INT8], ids=["nf4", "fp4", "int8"])
def test_the_base_is_dequantised_bit_for_bit_as_transformers_does_it(
    tmp_path: Path, family: str, record: dict[str, Any]
) -> None:
    from types import SimpleNamespace

    from peft import LoraConfig, get_peft_model

    from easyllm.core.families.weights import HfFiles

    base = write_base(tmp_path / "base", family)
    target = "c_attn" if family == "gpt2" else "q_proj"
    get_peft_model(load_model(base, torch.float32), LoraConfig(target_modules=[target])).save_pretrained(tmp_path / "a")
    wanted = load_base(base, torch.float32, record).dequantize().state_dict()
    source: Any = SimpleNamespace(path=tmp_path / "a", records={"quantisation": record}, weight=1.0)
    ours = Merged(HfFiles(base), base, [source])  # a fresh adapter adds zero
    plain = load_file(base / "model.safetensors")
    moved = 0
    for name in ours.names():
        found, right = ours.read(name), wanted[name]
        if family == "gpt2" and found.dim() == 2 and ".h." in name:
            right = right.T  # transformers leaves these layers the other way round
        assert torch.equal(found, right), name
        moved += not torch.equal(found, plain[name])
    assert moved == (8 if family == "gpt2" else 14)


def write_wide(folder: Path) -> None:
    """The 4-bit kernel of a CPU takes rows by 32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tiny_tokenizer()
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 256}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **shape, **heads, **ids)).save_pretrained(folder)
    words.save_pretrained(folder)


def test_qlora_merges_into_what_the_four_bits_stand_for(tmp_path: Path) -> None:
    write_wide(tmp_path / "base")
    tune(tmp_path, method="qlora")
    report = merged_report(tmp_path)
    assert report["adapter"]["max_logit_difference"] < 1e-5 * report["adapter"]["largest_logit"]
    assert report["greedy"]["merged"] == 1.0


@pytest.mark.parametrize(
    "how", [{"method": "int8"}, {"method": "qlora", "precision": "bf16"}], ids=["int8", "qlora in bf16"]
)
def test_what_training_rounded_besides_the_weights_is_told_and_the_weights_are_exact(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    write_wide(tmp_path / "base")
    tune(tmp_path, **how)
    report = merged_report(tmp_path)
    assert report["adapter"]["max_logit_difference"] < 1e-4 * report["adapter"]["largest_logit"]
    assert report["greedy"]["merged"] == 1.0
    assert 0 < report["training"]["max_logit_difference"] < 0.05 * report["adapter"]["largest_logit"]


def two_adapters(folder: Path) -> None:
    tune(folder)
    (folder / "run" / "finetune").rename(folder / "first")
    tune(folder, lora={"rank": 2, "alpha": 8, "rslora": True, "targets": ["q_proj", "up_proj"]}, epochs=2)
    (folder / "run" / "finetune").rename(folder / "second")


BOTH = [{"adapter": "first", "weight": 0.7}, {"adapter": "second", "weight": -0.4}]


def test_several_weighted_adapters_are_merged_as_peft_adds_them(tmp_path: Path) -> None:
    from peft import PeftModel

    two_adapters(tmp_path)
    manifest = publish(make_job(tmp_path, "merge", {"adapters": BOTH}))
    merged = load_file(tmp_path / "run" / "merge" / "model.safetensors")
    model: Any = PeftModel.from_pretrained(
        load_model(tmp_path / "base", torch.float32), str(tmp_path / "first"), adapter_name="first"
    )
    model.load_adapter(str(tmp_path / "second"), adapter_name="second")
    model.add_weighted_adapter(["first", "second"], [0.7, -0.4], "both", combination_type="cat")
    model.set_adapter("both")
    theirs = model.merge_and_unload().state_dict()
    for name, tensor in merged.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-6), name
    origin = manifest.records["made_of"]
    assert [(a["ref"], a["weight"], a["method"]) for a in origin["adapters"]] == [
        ("first", 0.7, "lora"), ("second", -0.4, "lora"),
    ]  # fmt: skip
    assert origin["base"]["digest"] == manifest.records["base"]["digest"]
    told = text(trace(tmp_path / "run" / "merge"))
    assert "+ 0.7 x first (lora)" in told
    assert "+ -0.4 x second (lora)" in told


def change_manifest(folder: Path, **records: Any) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["records"] |= records
    path.write_text(json.dumps(manifest))


def test_adapters_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    two_adapters(tmp_path)
    change_manifest(tmp_path / "second", quantisation=NF4)
    assert [p.code for p in check(make_job(tmp_path, "merge", {"adapters": BOTH}))] == ["MERGE-011"]
    change_manifest(tmp_path / "second", quantisation=None, template={"hash": "other"})
    with pytest.raises(UserError, match=r"MERGE-011.*template differs"):
        publish(make_job(tmp_path, "merge", {"adapters": BOTH}))
    assert [p.code for p in check(make_job(tmp_path, "merge", {"adapters": BOTH, "adapter": "first"}))] == ["MERGE-013"]
    path = tmp_path / "first" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    half = [{"adapter": "first", "weight": 0.5}]
    assert [p.code for p in check(make_job(tmp_path, "merge", {"adapters": half}))] == ["MERGE-012"]


def test_a_base_of_pickles_is_refused(tmp_path: Path) -> None:
    tune(tmp_path)
    base = tmp_path / "elsewhere"
    (tmp_path / "base").rename(base)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    records = json.loads((tmp_path / "run" / "finetune" / "manifest.json").read_text())["records"]["base"]
    job = make_job(tmp_path, "merge", {})
    from easyllm.core.digest import Digests
    from easyllm.core.inputs import content_digest

    digest = content_digest(base, Digests(tmp_path / "digests.json"))
    change_manifest(tmp_path / "run" / "finetune", base=records | {"path": str(base), "digest": digest})
    job = make_job(tmp_path, "merge", {})
    assert [p.code for p in check(job)] == ["MERGE-014"]


def test_a_whole_model_needs_no_merge(tmp_path: Path) -> None:
    tune(tmp_path, method="full", epochs=1)
    with pytest.raises(UserError, match=r"MERGE-010.*nothing to merge"):
        publish(make_job(tmp_path, "merge", {}))


def test_a_layer_that_the_base_lacks_stops_the_merge(tmp_path: Path) -> None:
    tune(tmp_path)
    file = tmp_path / "run" / "finetune" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({n.replace("layers.1.", "layers.7."): t for n, t in weights.items()}, file, {"format": "pt"})
    tell_of_files(file.parent)
    with pytest.raises(StageFailed, match="MERGE-015"):
        publish(make_job(tmp_path, "merge", {}))
    assert not (tmp_path / "run" / "merge").exists()


def test_an_answer_that_leaves_the_pairs_stops_the_merge() -> None:
    from easyllm.merge.proof import Proof, Said

    logits = [torch.tensor([[1.0, 2.0]])]
    one, other = Said(logits, [[1, 1]]), Said(logits, [[1, 0]])
    with pytest.raises(StageFailed, match=r"MERGE-016.*conversation 1.*token 2"):
        Proof(one, one, other, other, None).require()
