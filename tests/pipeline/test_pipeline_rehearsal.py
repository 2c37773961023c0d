"""Every method on the shape of five families, from rows to a model that stock transformers loads; shipped recipes."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm import pipeline
from easyllm.recipes import shipped
from tiny_tune import write_family, write_rows

FAMILIES = ("llama", "qwen3", "gpt2", "bloom", "mistral")
METHODS = ("lora", "full", "int8", "qlora")
LARGE = {"alpaca-lora-7b": "bloom", "qlora-8b": "qwen3", "full-1b": "qwen3"}


def recipe(folder: Path, method: str) -> Path:
    tune = {
        "base": "base", "method": method, "data": ["rows.jsonl"], "epochs": 3, "validation_rows": 2,
        "sequence_tokens": 128, "batch": {"global_samples": 4, "micro_samples": 2}, "learning_rate": 0.01,
    }  # fmt: skip
    if method != "full":
        tune["lora"] = {"rank": 4, "alpha": 8}
    sections: dict[str, Any] = {"finetune": tune, "evaluate": {"model": "merge", "max_new_tokens": 4}}
    if method == "full":
        sections["evaluate"]["model"] = "finetune"
    else:
        sections["merge"] = {"adapter": "finetune"}
    path = folder / f"{method}.yaml"
    path.write_text(json.dumps({"name": method, **sections}), "utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_and_a_model_of_the_family_become_a_better_model(
    family: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    write_family(tmp_path / "base", family)
    write_rows(tmp_path / "rows.jsonl")
    project = pipeline.open_project(recipe(tmp_path, method))
    done = {row.stage: row.manifest for row in pipeline.run(project, project.stages)}
    assert done["finetune"].metrics["last_loss"] < done["finetune"].metrics["first_loss"]
    made = "merge" if "merge" in done else "finetune"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "runs" / method / made)
    assert model.config.model_type == family
    assert model(torch.tensor([[5, 6, 7]])).logits.isfinite().all()
    scores = done["evaluate"].metrics
    assert any(name.startswith("loss") or name.endswith("loss") for name in scores), scores


def rehearsal(name: str) -> list[str]:
    """The words of the command in the recipe's comment."""
    [line] = re.findall(r"^#   (easyllm run .*)$", shipped.find(name).read_text("utf-8"), re.MULTILINE)
    assert line.startswith(f"easyllm run {name} name={name}-cpu finetune.base=tiny")
    return shlex.split(line)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_recipe_runs_on_a_small_model_by_the_line_it_carries(
    name: str, tmp_path: Path, easyllm_in: Any
) -> None:
    shipped.copy(name, tmp_path)
    write_family(tmp_path / "tiny", LARGE[name], positions=1024)
    words = rehearsal(name)
    done = easyllm_in(tmp_path, *[f"{name}.yaml" if word == name else word for word in words[1:]])
    assert done.returncode == 0
    manifest = json.loads((tmp_path / "runs" / f"{name}-cpu" / "finetune" / "manifest.json").read_text("utf-8"))
    assert manifest["metrics"]["last_loss"] < manifest["metrics"]["first_loss"]
