"""A model of another family, from text to a merged model, and that model to Megatron and back."""

import json
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.families.weights import HfFiles
from tiny_families import CASES
from tiny_pipeline import write_corpus
from tiny_tune import CHATML, tiny_tokenizer, write_rows

TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "bloom": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
}
STAGES = ["corpus", "pretrain", "convert", "finetune", "merge"]


def write_model(folder: Path, family: str) -> Path:
    """A random model of the family with as many rows as the tokenizer beside it has tokens."""
    import torch
    import transformers

    from easyllm.core.families.tables import FAMILIES

    words = tiny_tokenizer(CHATML)
    torch.manual_seed(5)
    said = CASES[family][1] | {"vocab_size": len(words), "eos_token_id": words.eos_token_id}
    config = getattr(transformers, FAMILIES[family].config_class)(**said)
    getattr(transformers, FAMILIES[family].hf_class)(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def write_recipe(folder: Path, name: str, **sections: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, **sections}), "utf-8")  # JSON is YAML
    return path


def whole_recipe(folder: Path) -> Path:
    """Text, and a model that is pretrained further, converted, tuned and merged."""
    write_corpus(folder / "corpus.jsonl", documents=40)
    write_rows(folder / "rows.jsonl")
    return write_recipe(
        folder,
        "whole",
        corpus={"input": ["corpus.jsonl"], "text_key": "text", "tokenizer": {"model": "model"}},
        pretrain={
            "init": "model", "sequence_tokens": 32, "batch": {"global_samples": 4, "micro_samples": 2}, "ranks": 2,
            "steps": 3, "optimizer": {"warmup_steps": 1}, "device": "cpu",
        },
        convert={"checkpoint": "pretrain", "to": "hf"},
        finetune={
            "base": "convert", "data": ["rows.jsonl"], "epochs": 1, "sequence_tokens": 128, "lora": {"rank": 4},
        },
        merge={"adapter": "finetune"},
    )  # fmt: skip


def manifest(artifact: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((artifact / "manifest.json").read_text("utf-8"))
    return read


@pytest.mark.slow
@pytest.mark.parametrize("family", TARGETS)
def test_a_model_goes_from_text_to_a_merged_model_and_through_megatron_and_back(
    tmp_path: Path, easyllm: Any, family: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_model(tmp_path / "model", family)
    recipe = whole_recipe(tmp_path)
    easyllm("run", recipe)
    run = tmp_path / "runs" / "whole"
    assert manifest(run / "convert")["records"]["parity"]["holds"]
    (decision,) = [d for d in manifest(run / "finetune")["decisions"] if d["what"] == "targets"]
    assert decision["value"] == TARGETS[family]
    merged = AutoModelForCausalLM.from_pretrained(run / "merge")
    assert merged.config.model_type == family
    ids = AutoTokenizer.from_pretrained(run / "merge")("The lighthouse", return_tensors="pt")["input_ids"]
    assert merged(ids).logits.isfinite().all()

    stages, node = [], json.loads(easyllm("lineage", "runs/whole/merge", "--json").stdout)
    for key in ("adapter", "base", "checkpoint", "corpus"):
        stages.append(node["stage"])
        if key == "checkpoint":
            assert node["inputs"][key]["from"]["inputs"]["init"]["ref"] == "model"
        node = node["inputs"][key]["from"]
    assert [*stages, node["stage"]] == STAGES[::-1]
    assert f"Nothing to do: all {len(STAGES)} stages are fresh." in easyllm("run", recipe).stderr

    there = write_recipe(tmp_path, "there", convert={"to": "megatron", "model": "runs/whole/merge"})
    back = write_recipe(tmp_path, "back", convert={"to": "hf", "checkpoint": "runs/there/convert"})
    easyllm("run", there)
    easyllm("run", back)
    found, wanted = HfFiles(tmp_path / "runs" / "back" / "convert"), HfFiles(run / "merge")
    assert sorted(found.names()) == sorted(wanted.names())
    for name in wanted.names():
        assert found.dtype(name) == wanted.dtype(name), name
        assert torch.equal(found.read(name), wanted.read(name)), name
