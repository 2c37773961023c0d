"""What transformers 5 saves is read wrongly by 4.51, and the export in layout v4 is read rightly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.core.errors import StageFailed, UserError
from easyllm.core.freshness import state
from easyllm.core.models import load_model
from easyllm.env.bootstrap import read_pins
from easyllm.export.isolated import read_isolated
from easyllm.export.proving import default_packages
from easyllm.export.v4 import READER, v4_config, v4_tokenizer_config
from tiny_families import make_model
from tiny_tune import check, make_job, publish, tiny_tokenizer, write_base
from v4_reader import v4_packages

MIT = {"license": "mit"}
ROOT = Path(__file__).parents[2]


def export(folder: Path, model: str, **config: Any) -> Any:
    return publish(
        make_job(folder, "export", {"model": model, "card": MIT, "v4_packages": str(v4_packages())} | config)
    )


def test_the_reader_is_the_one_that_is_pinned() -> None:
    pins = read_pins(str(ROOT / "docker" / "versions.env"))
    assert {name: pins["V4_" + name.upper().replace("-", "_")] for name in READER} == READER


@pytest.mark.slow
@pytest.mark.parametrize("case", ["llama3", "qwen3", "gpt2", "bloom", "mistral"])
def test_4_51_reads_the_export_rightly_in_every_family(tmp_path: Path, case: str) -> None:
    make_model(case, tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    manifest = export(_wide(tmp_path), "base")
    (proof,) = manifest.records["parity"]
    assert proof["holds"]
    assert proof["max_logit_difference"] <= 1e-4
    assert [d.value for d in manifest.decisions if d.what == "layout v4"] == ["proven"]


def _wide(folder: Path) -> Path:
    """The same model with room for the tiny tokenizer's 320 words."""
    model = load_model(folder / "base", torch.float32)
    torch.manual_seed(3)
    model.resize_token_embeddings(320, mean_resizing=False)
    model.save_pretrained(folder / "base")
    return folder


def test_without_the_export_4_51_takes_another_rope_and_no_tokenizer(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 100000.0
    (base / "config.json").write_text(json.dumps(config))
    asked: dict[str, Any] = {"ids": [[3, 77, 120, 9, 40]], "texts": [], "conversations": []}
    with pytest.raises(StageFailed, match=r"EXPORT-003.*TokenizersBackend does not exist"):
        read_isolated(base, v4_packages(), asked, tmp_path / "scratch")
    manifest = export(tmp_path, "base")
    v4 = tmp_path / "run" / "export" / "v4"
    trap = tmp_path / "trap"
    trap.mkdir()
    for file in v4.iterdir():
        (trap / file.name).write_bytes(file.read_bytes())
    (trap / "config.json").write_bytes((base / "config.json").read_bytes())
    rightly, wrongly = (read_isolated(place, v4_packages(), asked, tmp_path / "scratch") for place in (v4, trap))
    assert (rightly["rope_theta"], wrongly["rope_theta"]) == (100000.0, 10000.0)
    assert (rightly["logits"][0] - wrongly["logits"][0]).abs().max() > 1e-3
    assert manifest.records["parity"][0]["holds"]
    assert load_model(v4, torch.float32).config.rope_parameters["rope_theta"] == 100000.0
    assert (v4 / "model.safetensors").samefile(base / "model.safetensors")  # linked: no room lost
    inside = json.loads((v4 / "tokenizer_config.json").read_text())
    assert inside["chat_template"] == (v4 / "chat_template.jinja").read_text()
    assert inside["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_reader_of_another_version_proves_nothing(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageFailed, match="EXPORT-004"):
        export(tmp_path, "base", v4_packages=str(tmp_path / "empty"))
    assert not (tmp_path / "run" / "export").exists()


def test_an_unproven_layout_is_proven_once_the_packages_are_there(tmp_path: Path) -> None:
    write_base(tmp_path / "base")

    def asked() -> Any:
        return make_job(tmp_path, "export", {"model": "base", "layouts": ["v4"], "card": {"license": "mit"}})

    assert not publish(asked()).records["parity"]
    assert state(asked()).fresh
    packages = default_packages(asked().cache_dir)
    packages.parent.mkdir(exist_ok=True)
    packages.symlink_to(v4_packages())
    assert (state(asked()).fresh, state(asked()).reason) == (False, "input_changed")
    assert publish(asked()).records["parity"][0]["holds"]
    assert state(asked()).fresh
    packages.unlink()
    assert state(asked()).fresh  # what was proven stays so


def test_a_tokenizer_that_cuts_otherwise_stops_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from easyllm.export import isolated

    write_base(tmp_path / "base")
    found = {"versions": READER, "texts": [[1]], "conversations": [], "logits": []}
    monkeypatch.setattr(isolated, "read_isolated", lambda *_: found)
    with pytest.raises(StageFailed, match="EXPORT-005"):
        export(tmp_path, "base")


def test_rope_is_said_in_the_words_of_transformers_4() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}
    made = v4_config({"model_type": "qwen3", "dtype": "bfloat16", "rope_parameters": yarn})
    assert made["rope_theta"] == 1e6
    assert made["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0}
    assert made["torch_dtype"] == made["dtype"] == "bfloat16"
    two = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    gemma = v4_config({"model_type": "gemma3_text", "rope_parameters": two})
    assert (gemma["rope_theta"], gemma["rope_local_base_freq"], gemma["rope_scaling"]) == (1e6, 1e4, None)
    with pytest.raises(UserError, match="EXPORT-002"):
        v4_config({"model_type": "modernbert-decoder", "rope_parameters": two})
    assert v4_tokenizer_config({"extra_special_tokens": ["<a>"]}, None)["additional_special_tokens"] == ["<a>"]


def test_what_is_missing_is_said_before_any_work(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").unlink()
    problems = check(make_job(tmp_path, "export", {"model": "base"}))
    assert [p.code for p in problems] == ["EXPORT-020", "EXPORT-001"]


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors"]
)
def test_a_model_with_a_broken_file_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    base = write_base(tmp_path / "base")
    whole = (base / name).read_bytes()
    for broken in (whole[: len(whole) // 2], b"[]"):
        (base / name).write_bytes(broken)
        problems = check(make_job(tmp_path, "export", {"model": "base", "card": MIT}))
        assert [p.code for p in problems] == ["EXPORT-007"]
        assert name in str(problems[0])


def test_a_folder_of_packages_is_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    from easyllm.export.proving import v4_packages as chosen

    write_base(tmp_path / "base")
    asked = {"model": "base", "card": MIT, "v4_packages": "packages"}
    with pytest.raises(UserError, match="INPUT-001"):
        make_job(tmp_path, "export", asked)
    (tmp_path / "packages" / "transformers").mkdir(parents=True)
    assert chosen(make_job(tmp_path, "export", asked)) == tmp_path / "packages"


def test_a_form_asked_for_twice_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    for twice in ({"gguf": ["f16", "f16"]}, {"layouts": ["v4", "v4"]}):
        with pytest.raises(ValueError, match="is given twice"):
            make_job(tmp_path, "export", {"model": "base"} | twice)
