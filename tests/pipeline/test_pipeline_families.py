"""A model of another family, from text to a merged model, and that model to Megatron and back."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.families.weights import HfFiles
from tiny_pipeline import write_corpus
from tiny_tune import write_family, write_rows

TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "bloom": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
}
STAGES = ["corpus", "pretrain", "convert", "finetune", "merge"]


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


def run_all(easyllm_in: Any, folder: Path) -> None:
    """Text to a merged model; then that model to Megatron and back."""
    easyllm_in(folder, "run", whole_recipe(folder))
    easyllm_in(folder, "run", write_recipe(folder, "there", convert={"to": "megatron", "model": "runs/whole/merge"}))
    easyllm_in(folder, "run", write_recipe(folder, "back", convert={"to": "hf", "checkpoint": "runs/there/convert"}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, easyllm_in: Any) -> dict[str, Path]:
    """The folder of each family, run beside each other: most of their time is the start of processes."""
    base = tmp_path_factory.mktemp("families")
    folders = {family: base / family for family in TARGETS}
    for family, folder in folders.items():
        write_family(folder / "model", family)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda folder: run_all(easyllm_in, folder), folders.values()))  # list: errors are raised here
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("family", TARGETS)
def test_a_model_goes_from_text_to_a_merged_model_that_stock_transformers_loads(
    finished: dict[str, Path], family: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = finished[family] / "runs" / "whole"
    assert manifest(run / "convert")["records"]["parity"]["holds"]
    (targets,) = [d["value"] for d in manifest(run / "finetune")["decisions"] if d["what"] == "targets"]
    assert targets == TARGETS[family]
    merged = AutoModelForCausalLM.from_pretrained(run / "merge")
    assert merged.config.model_type == family
    ids = AutoTokenizer.from_pretrained(run / "merge")("The lighthouse", return_tensors="pt")["input_ids"]
    assert merged(ids).logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("family", TARGETS)
def test_its_lineage_is_whole_and_a_second_run_has_nothing_to_do(
    finished: dict[str, Path], easyllm_in: Any, family: str
) -> None:
    node = json.loads(easyllm_in(finished[family], "lineage", "runs/whole/merge", "--json").stdout)
    stages = [node["stage"]]
    for key in ("adapter", "base", "checkpoint", "corpus"):
        if key == "corpus":
            assert node["inputs"]["init"]["ref"] == "model"
        node = node["inputs"][key]["from"]
        stages.append(node["stage"])
    assert stages == STAGES[::-1]
    assert node["inputs"]["input"]["ref"] == "corpus.jsonl"
    done = easyllm_in(finished[family], "run", "whole.yaml")
    assert f"Nothing to do: all {len(STAGES)} stages are fresh." in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("family", TARGETS)
def test_the_merged_model_goes_to_megatron_and_back_bit_by_bit(finished: dict[str, Path], family: str) -> None:
    import torch

    runs = finished[family] / "runs"
    assert manifest(runs / "there" / "convert")["records"]["parity"]["holds"]
    found, wanted = HfFiles(runs / "back" / "convert"), HfFiles(runs / "whole" / "merge")
    assert sorted(found.names()) == sorted(wanted.names())
    for name in wanted.names():
        assert found.dtype(name) == wanted.dtype(name), name
        assert torch.equal(found.read(name), wanted.read(name)), name
