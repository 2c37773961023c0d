"""What is refused before a model is trained on, and the whole way once with new tokens and a replay."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.artifact import read_manifest
from easyllm.core.errors import UserError
from easyllm.core.families.config import read_architecture
from easyllm.core.inputs import Input
from easyllm.core.stage import Job
from easyllm.pretrain import losses
from easyllm.pretrain.checks import check
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.job import Start
from easyllm.pretrain.new_rows import NewRows
from easyllm.pretrain.plan import layouts, plan
from easyllm.pretrain.run import _broken
from easyllm.pretrain.start_weights import weights_of
from tiny_families import make_model
from tiny_megatron import artifact_input, make_corpus, pretrain_config, pretrain_job

ROWS = 301


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("c") / "corpus", vocabulary=300, documents=20)


@pytest.fixture(scope="module")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One row more than its tokenizer has tokens."""
    path = make_model("llama", tmp_path_factory.mktemp("m") / "model")
    shutil.copytree(corpus / "tokenizer", path, dirs_exist_ok=True)
    return path


def job_of(corpus: Path, model: Path, out: Path, replay: Path | None = None, **changes: Any) -> Job[PretrainConfig]:
    mixed = {"replay": {"corpus": str(replay)}} if replay else {}
    asked = {"model": None, "init": str(model), **mixed} | changes
    made = pretrain_job(corpus, out, **asked)
    found = {"init": Input("init", str(model), "model", path=model, digest="0")}
    if replay:
        found["replay.corpus"] = artifact_input("replay.corpus", replay)
    return replace(made, inputs=dict(made.inputs) | found)


def codes(job: Job[PretrainConfig]) -> list[str]:
    return [problem.code for problem in check(job)]


def test_a_corpus_in_the_models_tokens_is_good(corpus: Path, model: Path, tmp_path: Path) -> None:
    job = job_of(corpus, model, tmp_path / "out")
    assert codes(job) == []
    planned = plan(job)
    assert planned.figures["vocabulary, rows"] == ROWS
    assert {entry.what: entry.value for entry in planned.decisions}["new rows"] == 0


def test_a_shape_that_does_not_fit_is_named(corpus: Path, model: Path, tmp_path: Path) -> None:
    assert codes(job_of(corpus, model, tmp_path / "o", sequence_tokens=500)) == ["PRETRAIN-093"]
    three = {"parallel": {"tensor": 3}, "ranks": 3, "batch": {"global_samples": 8, "micro_samples": 8}}
    assert set(codes(job_of(corpus, model, tmp_path / "o", **three))) == {"PRETRAIN-094"}
    deep = {"parallel": {"pipeline": 4}, "ranks": 4, "batch": {"global_samples": 8, "micro_samples": 8}}
    assert codes(job_of(corpus, model, tmp_path / "o", **deep)) == ["PRETRAIN-010"]


def test_other_tokens_are_named(corpus: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(model, other)
    path = other / "tokenizer.json"
    said = json.loads(path.read_text("utf-8"))
    vocabulary = said["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[40:42]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(said), "utf-8")
    (found,) = check(job_of(corpus, other, tmp_path / "o"))
    assert found.code == "PRETRAIN-097"
    assert found.params["token"] == second  # it has the lower id in the model
    path.unlink()
    assert codes(job_of(corpus, other, tmp_path / "o")) == ["PRETRAIN-096"]


def test_files_that_lack_weights_or_rows_are_named(corpus: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text("utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 280}), "utf-8")
    assert codes(job_of(corpus, other, tmp_path / "o")) == ["PRETRAIN-098"]
    (other / "config.json").write_text(json.dumps(config), "utf-8")
    (other / "model.safetensors").unlink()
    assert codes(job_of(corpus, other, tmp_path / "o")) == ["PRETRAIN-092"]


def test_a_model_that_is_not_here_is_planned_without_its_numbers(corpus: Path, tmp_path: Path) -> None:
    job = job_of(corpus, Path("x"), tmp_path / "o")
    later = Input("init", "merge", "model", path=tmp_path / "merge", stage="merge")
    job = replace(job, inputs=dict(job.inputs) | {"init": later})
    assert codes(job) == []
    assert plan(job).figures["parameters"] == "known once the model of init is here"
    with pytest.raises(UserError, match="PRETRAIN-104"):
        layouts(job, 8, 10**10)


def test_a_replay_of_itself_or_with_a_cut_is_refused(
    corpus: Path, model: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert codes(job_of(corpus, model, tmp_path / "o", replay=corpus)) == ["PRETRAIN-099"]
    other = make_corpus(tmp_path / "other", vocabulary=290, documents=12)
    found = codes(job_of(corpus, model, tmp_path / "o", replay=other, validation={"samples": 8}))
    assert found == ["PRETRAIN-100", "PRETRAIN-101"]


@pytest.mark.slow
def test_new_tokens_begin_as_the_mean_of_their_pieces_and_the_run_tells_what_it_knew_before(
    corpus: Path, model: Path, tmp_path: Path, easyllm: Any
) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"lighthouse {n} and a list of numbers " * 8}) + "\n" for n in range(60))
    )
    recipe = {
        "name": "on",
        "corpus": {"input": ["a.jsonl"], "tokenizer": {"model": str(model), "extend": ["lighthouse", "numbers"]},
                   "split": {"train": 3, "valid": 1}},
        "pretrain": {
            k: v for k, v in pretrain_config(ranks=1, steps=6).items() if k != "model"
        } | {"init": str(model), "validation": {"samples": 4, "every_steps": 3},
             "replay": {"corpus": str(corpus), "share": 0.25}},
    }  # fmt: skip
    (tmp_path / "on.yaml").write_text(json.dumps(recipe), "utf-8")
    easyllm("run", "on.yaml", "--to", "pretrain")
    made = read_manifest(tmp_path / "runs" / "on" / "pretrain")
    assert made is not None
    assert made.records["init"]["new_tokens"] == 2
    assert made.records["architecture"]["tokenizer_size"] == 302
    rows = losses.read(tmp_path / "runs" / "on" / "pretrain" / "losses.csv")
    assert rows[-1].validation is not None
    assert rows[-1].validation < made.metrics["validation_loss_before"]
    assert {entry.what for entry in made.decisions} >= {"weights", "new rows", "replay", "re-warming"}


def test_a_model_with_alibi_is_not_cut_along_its_samples(corpus: Path, tmp_path: Path) -> None:
    bloom = make_model("bloom", tmp_path / "bloom")
    shutil.copytree(corpus / "tokenizer", bloom, dirs_exist_ok=True)
    cut = {"parallel": {"context": 2}, "sequence_tokens": 64}
    assert "PRETRAIN-095" in codes(job_of(corpus, bloom, tmp_path / "o", **cut))


def test_a_first_step_without_a_loss_is_laid_at_the_models_door(corpus: Path, model: Path, tmp_path: Path) -> None:
    found = _broken(job_of(corpus, model, tmp_path / "o"), {"step": 1, "zero": False})
    assert found.problem is not None
    assert found.problem.code == "PRETRAIN-102"


@pytest.mark.parametrize("how", ["pieces", "mean", "random"])
def test_new_rows_begin_as_the_recipe_says(model: Path, tmp_path: Path, how: str) -> None:
    import torch

    theirs = read_architecture(model, "pretrain", "pretrain.init")
    a = replace(theirs, tokenizer_size=ROWS + 1, padded_vocabulary=384)
    NewRows(how, {ROWS: [5, 9] if how == "pieces" else []}, 300).write(tmp_path / "rows.json")
    old, new = (weights_of(Start(model, rows), a, 7) for rows in (None, tmp_path / "rows.json"))
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        before, after = old.read(name), new.read(name)
        wanted = {"pieces": before[[5, 9]].mean(0), "mean": before[:300].mean(0), "random": None}[how]
        assert torch.equal(after[:ROWS], before[:ROWS])
        assert torch.equal(after[ROWS + 1 :], torch.zeros(384 - ROWS - 1, a.hidden))
        if wanted is None:
            assert 0 < float(after[ROWS].std()) < 2 * a.init_std
        else:
            assert torch.allclose(after[ROWS], wanted)
