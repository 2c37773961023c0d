"""A corpus of several sources with weights and parts of its own: what is drawn from it, and what is refused."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.artifact import read_manifest
from easyllm.core.errors import Problem
from easyllm.pretrain import losses
from easyllm.pretrain.blends import Blends, blends_of
from easyllm.pretrain.checks import check
from easyllm.pretrain.plan import plan
from tiny_megatron import pretrain_job
from tiny_pipeline import tiny_recipe, write_corpus

HELD_OUT = {"every_steps": 4, "samples": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blend")


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Path:
    """Two sources, drawn from three to one, one document in five held back for validation and one for the test."""
    write_corpus(folder / "pages.jsonl", 150)
    write_corpus(folder / "notes.jsonl", 60)
    corpus = {
        "input": [
            {"source": ["pages.jsonl"], "weight": 3, "name": "pages"},
            {"source": ["notes.jsonl"], "weight": 1, "name": "notes"},
        ],
        "tokenizer": {"train": {"vocab_size": 400}},
        "split": {"train": 3, "valid": 1, "test": 1},
    }
    path = tiny_recipe(folder, corpus=corpus)
    made = json.loads(path.read_text())
    made["pretrain"] |= {"ranks": 1, "validation": HELD_OUT}
    path.write_text(json.dumps(made))
    return path


@pytest.fixture(scope="module")
def trained(recipe: Path, folder: Path, easyllm_in: Any) -> Path:
    """The run's folder."""
    easyllm_in(folder, "run", recipe, "--to", "pretrain")
    return folder / "runs" / "tiny"


def test_a_blend_with_its_own_parts_is_trained_watched_and_tested(trained: Path) -> None:
    manifest = read_manifest(trained / "pretrain")
    assert manifest is not None
    rows = losses.read(trained / "pretrain" / "losses.csv")
    assert [row.step for row in rows if row.validation is not None] == [4, 8, 12]
    assert 0 < manifest.metrics["test_loss"] < rows[0].loss
    assert manifest.metrics["test_loss"] != manifest.metrics["validation_loss"]


def test_samples_are_drawn_by_weight_and_only_from_their_part(trained: Path, tmp_path: Path) -> None:
    import torch.distributed as dist

    from easyllm.pretrain.data import LedgerTokenizer, datasets

    corpus = read_manifest(trained / "corpus")
    assert corpus is not None
    blends = Blends.of_corpus(trained / "corpus", corpus.records["tokens"])
    ledger = corpus.records["ledger"]
    tokenizer = LedgerTokenizer(ledger["tokenizer_size"], ledger["eod_id"])
    wanted = {"train": 80, "valid": 20, "test": 20}
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())  # who writes the cache is asked of it
    try:
        found = datasets(blends, tokenizer, 32, wanted, None, 7, tmp_path / "cache")
    finally:
        dist.destroy_process_group()
    drawn = Counter(int(found["train"][n]["dataset_id"]) for n in range(80))
    assert drawn[0] == pytest.approx(60, abs=1)
    assert drawn[1] == pytest.approx(20, abs=1)
    own = {part: whole_text(getattr(blends, part)) for part in wanted}
    for part, dataset in found.items():
        for n in range(wanted[part]):
            sample = dataset[n]["tokens"].numpy()
            texts = own[part][int(dataset[n]["dataset_id"])]
            # A sample joins the documents of its own part: cut at the ends of documents, each piece stands there.
            pieces = bytes_between(sample, ledger["eod_id"])
            assert all(piece in texts for piece in pieces), f"{part} {n}"


def whole_text(sources: Any) -> list[bytes]:
    """All tokens of each source, as bytes."""
    return [source.prefix.with_name(source.prefix.name + ".bin").read_bytes() for source in sources]


def bytes_between(tokens: Any, end: int) -> list[bytes]:
    """The runs of tokens between end tokens, as the file has them."""
    import numpy

    cuts = numpy.flatnonzero(tokens == end)
    return [piece[piece != end].astype(numpy.uint16).tobytes() for piece in numpy.split(tokens, cuts)]


def test_the_plan_tells_epochs_by_source_and_the_parts(trained: Path, tmp_path: Path) -> None:
    job = pretrain_job(trained / "corpus", tmp_path / "out", ranks=1, validation=HELD_OUT)
    planned = plan(job)
    blends = blends_of(job)
    assert blends is not None
    assert planned.figures["epochs of pages"] == round(8 * 8 * 32 * 0.75 / blends.train[0].tokens, 2)
    (parts,) = [decision for decision in planned.decisions if decision.what == "corpus split"]
    counts = [sum(source.documents for source in part) for part in (blends.train, blends.valid, blends.test)]
    assert re.findall(r"\d+", str(parts.value)) == [str(count) for count in counts]


def found_by_check(trained: Path, tmp_path: Path, **changes: Any) -> list[Problem]:
    return check(pretrain_job(trained / "corpus", tmp_path / "out", ranks=1, **changes))


def test_a_share_beside_the_corpus_own_part_is_refused(trained: Path, tmp_path: Path) -> None:
    (found,) = found_by_check(trained, tmp_path, validation=HELD_OUT | {"share": 0.1})
    assert (found.code, found.key) == ("PRETRAIN-050", "pretrain.validation.share")


def test_a_source_that_has_not_one_sample_is_named(trained: Path, tmp_path: Path) -> None:
    corpus = read_manifest(trained / "corpus")
    assert corpus is not None
    pages, notes = Blends.of_corpus(trained / "corpus", corpus.records["tokens"]).train
    assert notes.tokens < pages.tokens
    (found,) = found_by_check(trained, tmp_path, sequence_tokens=notes.tokens)
    assert (found.code, found.params["name"], found.params["largest"]) == ("PRETRAIN-051", "notes", notes.tokens - 1)
    assert found_by_check(trained, tmp_path, sequence_tokens=notes.tokens - 1) == []


def test_more_held_out_samples_than_a_source_has_are_refused(trained: Path, tmp_path: Path) -> None:
    found = found_by_check(trained, tmp_path, validation={"samples": 100_000})
    assert {problem.code for problem in found} == {"PRETRAIN-018"}
    most = min(problem.params["most"] for problem in found) // 2 * 2
    assert found_by_check(trained, tmp_path, validation={"samples": most}) == []
