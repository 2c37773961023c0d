"""What pretraining refuses before a rank starts, and what its plan says."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.errors import UserError
from easyllm.core.freshness import fingerprint
from easyllm.pretrain import run
from easyllm.pretrain.batch import nearest_legal, samples_after, step_samples
from easyllm.pretrain.checks import check
from easyllm.pretrain.config import Batch
from easyllm.pretrain.plan import plan
from tiny_megatron import REPOSITORY, pretrain_config, pretrain_job, write_manifest

MODEL = pretrain_config()["model"]
GPT2 = {"family": "gpt2", "layers": 2, "hidden": 64, "heads": 4}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus artifact of 1,000 tokens, as far as its manifest goes."""
    path = tmp_path / "corpus"
    path.mkdir()
    ledger = {"tokenizer_size": 257, "special": {"<|endoftext|>": 256}, "eod_id": 256, "dtype": "uint16"}
    source = {"name": None, "weight": 1.0, "train": "tokens", "valid": None, "test": None}
    source |= {"documents": {"train": 10}, "tokens": {"train": 1000}}
    tokens = {"documents": 10, "tokens": 1000, "dtype": "uint16", "sources": [source]}
    write_manifest(path, "corpus", "corpus", {"ledger": ledger, "tokens": tokens})
    return path


def codes(corpus: Path | None, tmp_path: Path, **changes: Any) -> dict[str, str]:
    """What check finds: code -> its whole text."""
    return {p.code: str(p) for p in check(pretrain_job(corpus, tmp_path / "out", **changes))}


def test_a_good_section_is_good_before_and_after_the_corpus_is_made(corpus: Path, tmp_path: Path) -> None:
    assert codes(corpus, tmp_path) == {}
    assert codes(None, tmp_path) == {}


@pytest.mark.parametrize(
    ("code", "numbers", "changes"),
    [
        ("BATCH-001", ["3 ranks", "2, 4"], {"ranks": 3, "parallel": {"tensor": 2}}),
        (
            "BATCH-002",
            ["128", "24", "120, 144"],
            {"ranks": 8, "batch": {"global_samples": 128, "micro_samples": 3}},
        ),
        ("MODEL-001", ["100", "96, 108"], {"model": MODEL | {"hidden": 100, "heads": 12, "kv_heads": 12}}),
        ("MODEL-002", ["1, 2, 4"], {"model": MODEL | {"kv_heads": 3}}),
        ("MODEL-003", ["kv_heads = 1", "2"], {"model": MODEL | {"kv_heads": 1}, "parallel": {"tensor": 2}}),
        ("MODEL-003", ["ffn_hidden = 97"], {"model": MODEL | {"ffn_hidden": 97}, "parallel": {"tensor": 2}}),
        ("MODEL-004", ["32 tokens", "16"], {"model": GPT2 | {"max_positions": 16}}),
        ("MODEL-005", ["kv_heads", "gpt2"], {"model": GPT2 | {"kv_heads": 2}}),
        ("MODEL-005", ["rope_theta", "gpt2"], {"model": GPT2 | {"rope_theta": 5e5}}),
        ("MODEL-006", ["tied"], {"model": GPT2 | {"tie_embeddings": False}}),
        ("MODEL-007", ["15"], {"model": MODEL | {"hidden": 60}}),
        ("PRETRAIN-001", ["1000", "999"], {"sequence_tokens": 1000}),
        ("PRETRAIN-003", ["8"], {"optimizer": {"warmup_steps": 8}}),
        (
            "PRETRAIN-004",
            ["0.01", "0.001"],
            {"optimizer": {"warmup_steps": 1, "min_learning_rate": 0.01, "learning_rate": 0.001}},
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_numbers_and_a_way_out(
    corpus: Path, tmp_path: Path, code: str, numbers: list[str], changes: dict[str, Any]
) -> None:
    found = codes(corpus, tmp_path, **changes)
    assert list(found) == [code]
    for number in numbers:
        assert number in found[code]


def test_pit_07_the_nearest_legal_batches_are_legal_and_nearest() -> None:
    assert nearest_legal(128, 24) == "120, 144"
    assert nearest_legal(5, 8) == "8"


def test_pit_08_the_longest_sequence_that_fits_is_accepted(corpus: Path, tmp_path: Path) -> None:
    assert codes(corpus, tmp_path, sequence_tokens=999) == {}


def test_several_mistakes_are_told_at_once(corpus: Path, tmp_path: Path) -> None:
    found = codes(corpus, tmp_path, ranks=3, parallel={"tensor": 2}, deepspeed={"zero_stage": 2}, sequence_tokens=2000)
    assert set(found) == {"BATCH-001", "PRETRAIN-001", "PRETRAIN-073"}


def test_too_few_gpus_for_the_ranks_are_refused_before_they_start(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyllm.core.megatron import session

    monkeypatch.setattr(session, "choose_device", lambda asked: ("cuda", 1, "torch sees 1 CUDA devices"))
    with pytest.raises(UserError, match=r"PRETRAIN-005 .*2 GPUs.* sees 1"):
        run.run(pretrain_job(corpus, tmp_path / "out", device="auto"))


def test_a_checkpoint_that_another_tensor_parallel_size_cannot_share_is_refused(corpus: Path, tmp_path: Path) -> None:
    job = pretrain_job(corpus, tmp_path / "out", parallel={"tensor": 2})
    (job.out / "checkpoints" / "step-000004").mkdir(parents=True)
    (job.out / "job.json").write_text(json.dumps({"architecture": {"padded_vocabulary": 385}}))
    with pytest.raises(UserError, match=r"PRETRAIN-019 .*385 padded rows.*2"):
        run.run(job)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ({"step": 1, "zero": False}, "PRETRAIN-020 .*first step.*init_std 0.02"),
        ({"step": 3, "zero": True}, "PRETRAIN-021 .*exactly zero at step 3"),
        ({"step": 3, "zero": False}, "PRETRAIN-006 .*step 3"),
    ],
)
def test_a_loss_that_is_no_loss_has_a_diagnosis(
    corpus: Path, tmp_path: Path, broken: dict[str, Any], text: str
) -> None:
    assert re.search(text, str(run._broken(pretrain_job(corpus, tmp_path / "out"), broken)))


def test_a_cut_run_goes_on_when_only_its_layout_changes(corpus: Path, tmp_path: Path) -> None:
    one = fingerprint(pretrain_job(corpus, tmp_path / "out"))
    assert fingerprint(pretrain_job(corpus, tmp_path / "out", ranks=1, recompute="full")) == one
    assert fingerprint(pretrain_job(corpus, tmp_path / "out", parallel={"pipeline": 2})) == one
    assert fingerprint(pretrain_job(corpus, tmp_path / "out", steps=9)) != one


def test_a_growing_batch_follows_megatrons_own_calculator() -> None:
    batch = Batch.model_validate(
        {"global_samples": 8, "micro_samples": 2, "ramp": {"from_samples": 2, "by_samples": 2, "over_samples": 64}}
    )
    # Megatron-Core 0.16.1 with the same numbers: 2, then 4 from sample 22, 6 from 43, 8 at 64.
    assert [step_samples(batch, n) for n in (0, 20, 22, 42, 44, 63, 64, 100)] == [2, 2, 4, 4, 6, 6, 8, 8]
    assert samples_after(batch, 11) == 22
    assert samples_after(batch, 100) == sum(steps_of(batch, 100))


def steps_of(batch: Batch, steps: int) -> list[int]:
    sizes: list[int] = []
    for _ in range(steps):
        sizes.append(step_samples(batch, sum(sizes)))
    return sizes


def test_the_plan_counts_what_will_be_done(corpus: Path, tmp_path: Path) -> None:
    made = plan(pretrain_job(corpus, tmp_path / "out", parallel={"tensor": 2}))
    figures = made.figures
    assert figures["padded vocabulary, rows"] == 512
    # 2 x 512 x 64 embedding and output, 64 last norm; a layer: 64 x (128 + 64 + 192 + 96) and two norms
    assert figures["parameters"] == 2 * 512 * 64 + 64 + 2 * (64 * 480 + 128) == made.disk_bytes // (4 * 3 * 3)
    assert (figures["tokens to train on"], figures["samples"], figures["epochs"]) == (2048, 64, 2.05)
    assert (figures["data parallel ranks"], figures["micro batches per step and rank"]) == (1, 4)
    assert "--nproc-per-node 2" in made.commands[0]
    assert made.commands[0].endswith(f"--module easyllm.pretrain.train {tmp_path / 'out' / 'job.json'}")
    assert made.memory_bytes > 2 * 400_000_000


def test_the_plan_before_the_corpus_says_what_is_not_known_yet(tmp_path: Path) -> None:
    figures = plan(pretrain_job(None, tmp_path / "out")).figures
    assert "known once the corpus is made" in figures["parameters"]
    assert figures["tokens to train on"] == 2048


def test_checking_and_planning_import_no_torch() -> None:
    modules = ", ".join(f"easyllm.{s}.{m}" for s in ("pretrain", "convert") for m in ("config", "checks", "plan"))
    code = f"import sys, {modules}; print([m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
