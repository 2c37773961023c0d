"""Each method trains what it says and nothing else, and leaves what stock PEFT or transformers loads."""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyllm.core.chat import load_tokenizer
from easyllm.core.errors import UserError
from easyllm.core.models import load_model
from easyllm.core.tuning.adapted import load_adapted
from easyllm.core.tuning.quantised import load_base
from tiny_tune import FINETUNE, check, make_job, publish, tune, write_base, write_family, write_rows

IDS = torch.tensor([[3, 77, 120, 9, 40]])
NO_LORA = {"lora": FINETUNE["lora"]}


def full(folder: Path, **changes: Any) -> Any:
    config = {name: value for name, value in FINETUNE.items() if name != "lora"}
    return publish(make_job(folder, "finetune", config | {"method": "full"} | changes))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


@pytest.mark.parametrize(("family", "dtype"), [("llama", "float32"), ("gpt2", "bfloat16")])
def test_full_trains_every_weight_and_leaves_a_model(tmp_path: Path, family: str, dtype: str) -> None:
    write_base(tmp_path / "base", family, dtype)
    write_rows(tmp_path / "rows.jsonl")
    manifest = full(tmp_path)
    assert (manifest.kind, manifest.records["method"], manifest.records["quantisation"]) == ("model", "full", None)
    assert manifest.metrics["last_loss"] < 0.5 * manifest.metrics["first_loss"]
    out = tmp_path / "run" / "finetune"
    before, after = load_file(tmp_path / "base" / "model.safetensors"), load_file(out / "model.safetensors")
    assert {name: t.dtype for name, t in after.items()} == {name: t.dtype for name, t in before.items()}
    assert [name for name, t in after.items() if torch.equal(t, before[name])] == []
    model = load_model(out, torch.float32)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert head.weight is embedding.weight  # tied it was, tied it is
    assert manifest.metrics["trained_parameters"] == sum(p.numel() for p in model.parameters())
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == 1
    inside = json.loads((out / "tokenizer_config.json").read_text())["chat_template"]
    assert inside == (out / "chat_template.jinja").read_text() == load_tokenizer(out).chat_template


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
@pytest.mark.parametrize("method", ["int8", "qlora"])
def test_a_quantised_base_stays_as_it_was_and_its_adapter_learns(tmp_path: Path, family: str, method: str) -> None:
    write_family(tmp_path / "base", family)
    manifest = tune(tmp_path, method=method, learning_rate=0.05, epochs=4)
    assert manifest.metrics["last_loss"] < manifest.metrics["first_loss"] - 0.02
    bits = 8 if method == "int8" else 4
    assert manifest.records["quantisation"]["bits"] == bits
    out = tmp_path / "run" / "finetune"
    model = load_adapted(out, manifest.records, tmp_path / "base", torch.float32)
    kinds = {type(m).__name__ for name, m in model.named_modules() if name.endswith("base_layer")}
    assert kinds == {"Linear8bitLt" if bits == 8 else "Linear4bit"}
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    with model.disable_adapter():
        plain = logits(model)
    assert torch.equal(plain, logits(load_base(tmp_path / "base", torch.float32, manifest.records["quantisation"])))
    assert (logits(model) - plain).abs().max() > 1e-3
    assert {t.dtype for t in load_file(out / "adapter_model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dora_and_rslora_are_what_stock_peft_makes_of_them(tmp_path: Path, family: str) -> None:
    from peft import PeftModel

    write_base(tmp_path / "base", family)
    made, first = {}, {}
    for name, said in {
        "plain": {},
        "dora": {"dora": True},
        "rslora": {"rslora": True},
        "drop": {"dropout": 0.5},
    }.items():
        manifest = tune(tmp_path, lora=FINETUNE["lora"] | said)
        first[name] = manifest.metrics["first_loss"]
        assert manifest.metrics["last_loss"] < manifest.metrics["first_loss"]
        out = tmp_path / "run" / "finetune"
        model = PeftModel.from_pretrained(load_model(tmp_path / "base", torch.float32), str(out))
        made[name] = logits(model)
        magnitudes = [n for n in load_file(out / "adapter_model.safetensors") if "magnitude" in n]
        assert bool(magnitudes) == (name == "dora")
        out.rename(tmp_path / "run" / name)
    assert max(first["plain"], first["dora"]) - min(first["plain"], first["rslora"]) < 1e-3  # each begins as nothing
    names = list(made)
    for n, one in enumerate(names):
        assert all((made[one] - made[other]).abs().max() > 1e-3 for other in names[n + 1 :])


def grow_tokenizer(base: Path) -> int:
    """Two tokens that the base has no rows for, and a template that uses them."""
    tokenizer = load_tokenizer(base)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|from|>", "<|till|>"]})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|start|>", "<|from|>").replace("<|end|>", "<|till|>")
    tokenizer.save_pretrained(base)
    return rows


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "bloom", "gpt_neox"])
def test_a_grown_vocabulary_is_trained_saved_and_merged(tmp_path: Path, family: str) -> None:
    write_family(tmp_path / "base", family)
    rows = grow_tokenizer(tmp_path / "base")
    manifest = tune(tmp_path, epochs=6)
    assert manifest.records["vocabulary"] == rows + 2
    assert next(d for d in manifest.decisions if d.what == "vocabulary").value == rows + 2
    assert manifest.metrics["last_loss"] < manifest.metrics["first_loss"]
    pair = load_adapted(tmp_path / "run" / "finetune", manifest.records, tmp_path / "base", torch.float32)
    said = logits(pair)
    assert said.shape[-1] == rows + 2
    tied = family != "gpt_neox"
    publish(make_job(tmp_path, "merge", {}))
    merged = load_model(tmp_path / "run" / "merge", torch.float32)
    assert (logits(merged) - said).abs().max() < 1e-3
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == tied
    assert merged.config.vocab_size == rows + 2
    assert not torch.equal(merged.get_input_embeddings().weight[:rows], _embedding(tmp_path / "base"))


@pytest.mark.parametrize("saved", [[], ["o_proj"], ["lm_head"]])
def test_a_grown_vocabulary_is_saved_and_merged_whatever_list_of_layers_is_given(
    tmp_path: Path, saved: list[str]
) -> None:
    write_base(tmp_path / "base")
    rows = grow_tokenizer(tmp_path / "base")
    manifest = tune(tmp_path, max_steps=2, lora=FINETUNE["lora"] | {"save_modules": saved})
    pair = load_adapted(tmp_path / "run" / "finetune", manifest.records, tmp_path / "base", torch.float32)
    publish(make_job(tmp_path, "merge", {}))
    merged = load_model(tmp_path / "run" / "merge", torch.float32)
    assert (logits(merged) - logits(pair)).abs().max() < 1e-4
    assert merged.config.vocab_size == rows + 2


def _embedding(base: Path) -> torch.Tensor:
    found: torch.Tensor = load_model(base, torch.float32).get_input_embeddings().weight
    return found


def test_a_grown_vocabulary_of_a_full_model(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    rows = grow_tokenizer(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    manifest = full(tmp_path)
    assert manifest.records["vocabulary"] == rows + 2
    assert load_model(tmp_path / "run" / "finetune", torch.float32).config.vocab_size == rows + 2


def test_a_layer_trained_whole_is_kept_beside_the_adapter(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    manifest = tune(tmp_path, lora=FINETUNE["lora"] | {"targets": ["q_proj"], "save_modules": ["down_proj", "lm_head"]})
    weights = load_file(tmp_path / "run" / "finetune" / "adapter_model.safetensors")
    whole = [name for name in weights if "lora" not in name]
    assert len(whole) == 4  # two layers, and the embedding under both of its names, as PEFT wants it
    pair = load_adapted(tmp_path / "run" / "finetune", manifest.records, tmp_path / "base", torch.float32)
    publish(make_job(tmp_path, "merge", {}))
    assert (logits(load_model(tmp_path / "run" / "merge", torch.float32)) - logits(pair)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("method", "said", "key"),
    [
        ("lora", {"quantisation": {"double": True}}, "finetune.quantisation.double"),
        ("full", NO_LORA, "finetune.lora"),
        ("int8", {"quantisation": {"four_bit_type": "nf4"}}, "finetune.quantisation.four_bit_type"),
        ("qlora", {"quantisation": {"int8_threshold": 6.0}}, "finetune.quantisation.int8_threshold"),
    ],
)
def test_what_a_method_has_no_use_for_is_refused(tmp_path: Path, method: str, said: dict[str, Any], key: str) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    config = {name: value for name, value in FINETUNE.items() if name != "lora"}
    (found,) = check(make_job(tmp_path, "finetune", config | {"method": method} | said))
    assert (found.code, found.key) == ("TRAIN-011", key)


def test_without_bitsandbytes_the_other_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    job = make_job(tmp_path, "finetune", FINETUNE | {"method": "qlora"})
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)  # what an import finds where it is not installed
    with pytest.raises(UserError, match="TRAIN-010"):
        publish(job)

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("easyllm.core.tuning.methods.version", missing)
    (found,) = check(job)
    assert found.code == "TRAIN-010"
    assert "finetune.method=lora" in found.fix


def test_the_plan_knows_what_each_method_trains_and_keeps(tmp_path: Path) -> None:
    from easyllm.finetune.plan import plan

    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    config = {name: value for name, value in FINETUNE.items() if name != "lora"}
    plans = {m: plan(make_job(tmp_path, "finetune", config | {"method": m})) for m in ("full", "lora", "int8", "qlora")}
    memory = {method: found.memory_bytes for method, found in plans.items()}
    assert memory["full"] > memory["lora"] > memory["int8"] > memory["qlora"]
    figures = plans["full"].figures
    assert figures["trained parameters"] == figures["base parameters"]
    for said in ({"dora": True}, {"save_modules": ["down_proj"], "targets": ["q_proj"]}):
        job = make_job(tmp_path, "finetune", FINETUNE | {"lora": FINETUNE["lora"] | said})
        planned = plan(job).figures["trained parameters"]
        assert tune(tmp_path, lora=FINETUNE["lora"] | said).metrics["trained_parameters"] == planned
        (tmp_path / "run" / "finetune").rename(tmp_path / "run" / str(len(said)))
