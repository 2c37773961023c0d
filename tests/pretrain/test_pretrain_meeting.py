"""What ranks find out about their nodes before they train. CLUSTER-014 is met for real in test_pretrain_nodes.py."""

from pathlib import Path

import pytest

from easyllm.core.errors import StageFailed
from easyllm.pretrain import meeting
from easyllm.pretrain.job import RankJob
from easyllm.pretrain.meeting import Word
from easyllm.pretrain.run import rank_job_of
from tiny_megatron import make_corpus, pretrain_job


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("meeting")
    out = base / "run" / "pretrain.partial"
    corpus = make_corpus(base / "run" / "corpus", documents=3)
    rank_job_of(pretrain_job(corpus, out), "cpu", "float32").write(out / "job.json")
    return out / "job.json"


def told(job_file: Path, *words: Word) -> str:
    verdict = meeting._verdict(job_file, list(words))
    return str(meeting._refusal(verdict)) if verdict else ""


def test_nodes_that_cannot_take_part_are_named(job_file: Path) -> None:
    good, blind, poor = Word("a", True, 1, None), Word("b", False, 1, None), Word("c", True, 4, 2)
    assert told(job_file, good, good) == ""
    assert told(job_file, good, blind).startswith("CLUSTER-014  these nodes do not see")
    assert ": b. " in told(job_file, good, blind)
    assert told(job_file, good, good, good).startswith(
        "CLUSTER-015  3 ranks were started, and the job is laid out for 2"
    )
    assert told(job_file, poor, poor).startswith("CLUSTER-016  these nodes have too few GPUs for 4 ranks each: c (2).")


def test_a_node_sees_what_the_first_rank_wrote_or_not(job_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "SEEN_WITHIN_SECONDS", 0.1)
    mark = meeting._leave_mark(job_file)
    assert meeting._look(job_file, mark).sees
    assert not meeting._look(job_file, "another").sees
    assert not meeting._look(job_file.with_name("none.json"), mark).sees


def test_the_job_file_is_good_wherever_a_node_has_mounted_the_folder(job_file: Path) -> None:
    assert str(job_file.parents[2]) not in job_file.read_text("utf-8")
    moved = job_file.parents[1].rename(job_file.parents[2] / "elsewhere")
    try:
        job = RankJob.read(moved / "pretrain.partial" / "job.json")
        assert Path(f"{job.tokens}.bin").is_file()
        assert job.out == moved / "pretrain.partial"
    finally:
        moved.rename(job_file.parents[1])


def test_a_refusal_is_a_failure_with_its_code(job_file: Path) -> None:
    verdict = meeting._verdict(job_file, [Word("b", False, 1, None)])
    assert verdict
    with pytest.raises(StageFailed, match=r"CLUSTER-014 .*runs_dir"):
        raise meeting._refusal(verdict)
