"""The card says what the manifests say, in front matter that huggingface_hub reads, and no path of this machine."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyllm.core.artifact import Decision
from easyllm.export.card import nameless
from easyllm.export.licence import licence_of
from tiny_tune import make_job, publish, tune, write_base


@pytest.mark.slow
def test_the_card_of_a_merged_model_tells_its_whole_life(tmp_path: Path) -> None:
    tune(tmp_path, validation_rows=2)
    publish(make_job(tmp_path, "merge", {}))
    scores = publish(make_job(tmp_path, "evaluate", {"prompts": ["What colour is the door?"]}))
    asked = {
        "license": "mit",
        "language": ["en", "zh"],
        "base_model": "org/base",
        "datasets": ["org/rows"],
        "about": "Small.",
    }
    job = make_job(tmp_path, "export", {"scores": "evaluate", "card": asked, "hub": {"repo": "org/tiny"}})
    manifest = publish(job)
    hub = tmp_path / "run" / "export" / "hub"
    text = (hub / "README.md").read_text("utf-8")
    card = ModelCard(text)
    assert (card.data.license, card.data.language, card.data.base_model) == ("mit", ["en", "zh"], "org/base")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert any(result.metric_type.startswith("tuned_") for result in card.data.eval_results)
    for stage in ("finetune", "merge"):
        assert json.loads((tmp_path / "run" / stage / "manifest.json").read_text())["digest"] in text
    assert "| learning_rate | 0.01 |" in text
    assert "rows.jsonl" in text
    assert "(loss_curve.png)" in text
    assert (hub / "loss_curve.png").is_file()
    assert all(f"| {name} |" in text for name, value in scores.metrics.items() if isinstance(value, float))
    assert 'from_pretrained("org/tiny")' in text
    assert str(tmp_path) not in text
    assert not any(str(tmp_path) in f.read_text("utf-8") for f in hub.glob("*.json"))
    assert not (hub / "manifest.json").exists()
    assert "*.gguf filter=lfs" in (hub / ".gitattributes").read_text()
    assert [d.value for d in manifest.decisions if d.what == "layout v4"] == ["unproven"]
    assert "was not proven" in text
    _is_what_a_hub_takes(hub, tmp_path / "run" / "merge")


def _is_what_a_hub_takes(hub: Path, model: Path) -> None:
    """Loaded by its folder as by its name, and a head that huggingface_hub's own checks read and write alike."""
    ids = torch.tensor([[3, 77, 120, 9]])
    with torch.no_grad():
        said = [AutoModelForCausalLM.from_pretrained(folder)(ids).logits for folder in (hub, model)]
    assert torch.equal(*said)
    assert AutoTokenizer.from_pretrained(hub).chat_template == AutoTokenizer.from_pretrained(model).chat_template
    head = metadata_load(hub / "README.md")
    assert head is not None
    name, results = model_index_to_eval_results(head.pop("model-index"))
    again = ModelCardData(**head, model_name=name, eval_results=results)
    assert again.to_dict() == ModelCard.load(hub / "README.md").data.to_dict()
    validate_repo_id(head["base_model"])


def test_the_licence_is_that_of_the_bases_own_card(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    job = make_job(tmp_path, "export", {"model": "base"})
    assert licence_of(job) is None
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Base\n")
    found = licence_of(job)
    assert found is not None
    assert Decision("license", *found).value == "apache-2.0"


def test_a_path_of_this_machine_is_only_a_name() -> None:
    assert [nameless(text) for text in ("/home/me/rows.jsonl", "data/rows.jsonl", "hf:org/name")] == [
        "rows.jsonl", "data/rows.jsonl", "hf:org/name",
    ]  # fmt: skip


def test_several_licences_or_letters_of_another_encoding_are_no_licence(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    job = make_job(tmp_path, "export", {"model": "base"})
    (base / "README.md").write_bytes(b"---\nlicense: [mit, apache-2.0]\n---\n\xe9\n")
    assert licence_of(job) is None
    (base / "README.md").write_bytes(b"---\nlicense: mit\n---\n\xe9\n")
    assert licence_of(job) is not None


def test_the_card_tells_only_of_settings_that_had_a_part(tmp_path: Path) -> None:
    from easyllm.export.card import _with_a_part

    shown = _with_a_part(dict(tune(tmp_path, epochs=1).config))
    assert {"lora", "method", "engine"} <= set(shown)
    assert not {"quantisation", "deepspeed"} & set(shown)
    assert "quantisation" in _with_a_part({"method": "qlora", "quantisation": {"double": True}})
