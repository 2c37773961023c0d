"""A merged model says what base and adapter say together, carries all a server needs, and is never its base."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from easyllm.core.chat import load_tokenizer, seal
from easyllm.core.errors import StageFailed, UserError
from easyllm.core.models import load_model
from tiny_tune import check, make_job, publish, tell_of_files, tune, write_base


@pytest.mark.parametrize(("family", "dtype"), [("llama", "float32"), ("gpt2", "float32"), ("llama", "bfloat16")])
def test_the_merged_model_answers_as_base_and_adapter_do(tmp_path: Path, family: str, dtype: str) -> None:
    from peft import PeftModel

    write_base(tmp_path / "base", family, dtype)
    tune(tmp_path, epochs=6)
    manifest = publish(make_job(tmp_path, "merge", {}))
    out = tmp_path / "run" / "merge"
    assert manifest.kind == "model"
    report = json.loads((out / "parity.json").read_text())
    assert report["adapter"]["holds"]
    assert report["greedy"]["merged"] == 1.0
    assert (report["rounding"]["max_logit_difference"] > 0) == (dtype == "bfloat16")
    assert not list(out.glob(".*"))
    merged, base = load_model(out, torch.float32), load_model(tmp_path / "base", torch.float32)
    ids = torch.tensor([[3, 77, 120, 9, 40]])
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        pair = PeftModel.from_pretrained(base, str(tmp_path / "run" / "finetune")).eval()(input_ids=ids).logits
        found = merged(input_ids=ids).logits
    assert (found - plain).abs().max() > 0.05
    rounding = 2e-2 if dtype == "bfloat16" else 1e-4  # saved in the base's own precision
    assert (found - pair).abs().max() < rounding * max(1.0, float(pair.abs().max()))
    stored = load_file(out / "model.safetensors")
    assert {str(t.dtype) for t in stored.values()} == {f"torch.{dtype}"}


def test_pit_20_template_and_end_tokens_travel_with_the_merged_model(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    path = tmp_path / "base" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 0, "temperature": 0.3}))  # not the turn's end
    tuned = tune(tmp_path)
    manifest = publish(make_job(tmp_path, "merge", {}))
    out = tmp_path / "run" / "merge"
    generation = json.loads((out / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["temperature"]) == ([0, 1], 0.3)
    inside = json.loads((out / "tokenizer_config.json").read_text())["chat_template"]
    assert inside == (out / "chat_template.jinja").read_text() == load_tokenizer(out).chat_template
    assert seal(load_tokenizer(out))["hash"] == tuned.records["template"]["hash"]
    assert manifest.records["template"] == tuned.records["template"]
    (out / "chat_template.jinja").unlink()  # what a server that knows tokenizer_config.json only sees
    assert seal(load_tokenizer(out))["hash"] == tuned.records["template"]["hash"]


def test_a_merge_that_changes_nothing_is_an_error(tmp_path: Path) -> None:
    tune(tmp_path)
    file = tmp_path / "run" / "finetune" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({n: torch.zeros_like(t) if "lora_B" in n else t for n, t in weights.items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"MERGE-018.*adapter_model.safetensors is not the file"):
        publish(make_job(tmp_path, "merge", {}))
    tell_of_files(file.parent)
    with pytest.raises(StageFailed, match=r"MERGE-001.*equal those of its base"):
        publish(make_job(tmp_path, "merge", {}))
    assert not (tmp_path / "run" / "merge").exists()


def test_a_change_that_the_bases_precision_rounds_away_is_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_base(tmp_path / "base", dtype="bfloat16")
    tune(tmp_path)
    # The exact sums may well differ by more than noise: what is published must differ itself.
    monkeypatch.setattr("easyllm.merge.run.NOISES", -1)
    with pytest.raises(StageFailed, match=r"MERGE-001.*equal those of its base"):
        publish(make_job(tmp_path, "merge", {"adapters": [{"adapter": "finetune", "weight": 1e-12}]}))
    assert not (tmp_path / "run" / "merge").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_that_cancel_each_other_are_no_model(tmp_path: Path, dtype: str) -> None:
    write_base(tmp_path / "base", dtype=dtype)
    tune(tmp_path)
    both = [{"adapter": "finetune", "weight": 1}, {"adapter": "finetune", "weight": -1}]
    with pytest.raises(StageFailed, match="MERGE-001"):
        publish(make_job(tmp_path, "merge", {"adapters": both}))
    assert not (tmp_path / "run" / "merge").exists()


def test_an_adapter_with_a_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    tune(tmp_path, epochs=1)
    adapter = tmp_path / "run" / "finetune"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        whole = (adapter / name).read_bytes()
        for broken in (whole[: len(whole) // 2], b"[]", b""):
            (adapter / name).write_bytes(broken)
            for asked in ({"adapter": str(adapter)}, {"adapters": [{"adapter": str(adapter), "weight": 0.5}]}):
                assert [p.code for p in check(make_job(tmp_path, "merge", asked))] == ["MERGE-017"], (name, broken[:9])
        (adapter / name).unlink()
        with pytest.raises(UserError, match=f"MERGE-017.*{name}"):
            publish(make_job(tmp_path, "merge", {}))
        (adapter / name).write_bytes(whole)
    assert check(make_job(tmp_path, "merge", {})) == []
    (adapter / "manifest.json").write_text('{"kind": "adapter"}')
    with pytest.raises(UserError, match=r"INPUT-009.*KeyError: 'decisions'"):
        make_job(tmp_path, "merge", {})


def test_pit_19_an_adapter_is_merged_only_on_the_base_it_was_trained_on(tmp_path: Path) -> None:
    tune(tmp_path)
    job = make_job(tmp_path, "merge", {})
    assert check(job) == []
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"] *= 1.01
    save_file(weights, file, {"format": "pt"})
    assert [p.code for p in check(job)] == ["BASE-006"]
    with pytest.raises(UserError, match="BASE-006"):
        publish(job)
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    assert [p.code for p in check(job)] == ["BASE-005"]


def test_a_template_that_was_changed_after_training_stops_the_merge(tmp_path: Path) -> None:
    tune(tmp_path)
    template = tmp_path / "run" / "finetune" / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n", "assistant: "))
    with pytest.raises(StageFailed, match=r"MERGE-002.*golden conversations"):
        publish(make_job(tmp_path, "merge", {}))
