"""What ranks find out about their nodes before they train, and what easyllm tells while others train.

Both are met for real in test_pretrain_nodes.py.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from easyllm.core import workplace
from easyllm.core.artifact import write_whole
from easyllm.core.cluster import ClusterConfig
from easyllm.core.errors import StageFailed, Waiting
from easyllm.core.nodes import meeting
from easyllm.core.nodes.heartbeat import Heartbeat, read, write_hung
from easyllm.core.nodes.meeting import Word
from easyllm.core.stage import Job
from easyllm.pretrain import losses
from easyllm.pretrain.checks import check
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.job import BEATS, RankJob
from easyllm.pretrain.run import rank_job_of, run
from tiny_megatron import make_corpus, pretrain_job


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("meeting")
    out = base / "run" / "pretrain.partial"
    corpus = make_corpus(base / "run" / "corpus", documents=3)
    rank_job_of(pretrain_job(corpus, out), "cpu", "float32").write(out / "job.json")
    return out / "job.json"


def told(job_file: Path, *words: Word) -> str:
    verdict = meeting._verdict(job_file, list(words), RankJob.read, "its tokens")
    return str(meeting._refusal(verdict, "pretrain")) if verdict else ""


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
    assert meeting._look(job_file, mark, RankJob.read).sees
    assert not meeting._look(job_file, "another", RankJob.read).sees
    assert not meeting._look(job_file.with_name("none.json"), mark, RankJob.read).sees


def test_the_job_file_is_good_wherever_a_node_has_mounted_the_folder(job_file: Path) -> None:
    assert str(job_file.parents[2]) not in job_file.read_text("utf-8")
    moved = job_file.parents[1].rename(job_file.parents[2] / "elsewhere")
    try:
        job = RankJob.read(moved / "pretrain.partial" / "job.json")
        [source] = job.data.train
        assert Path(f"{source.prefix}.bin").is_file()
        assert job.out == moved / "pretrain.partial"
    finally:
        moved.rename(job_file.parents[1])


def test_a_refusal_is_a_failure_with_its_code(job_file: Path) -> None:
    verdict = meeting._verdict(job_file, [Word("b", False, 1, None)], RankJob.read, "its tokens")
    assert verdict
    with pytest.raises(StageFailed, match=r"CLUSTER-014 .*runs_dir"):
        raise meeting._refusal(verdict, "pretrain")


@pytest.fixture
def sent(job_file: Path, tmp_path: Path) -> Job[PretrainConfig]:
    """A job that two nodes are to do, nothing of it done."""
    job = pretrain_job(job_file.parents[1] / "corpus", tmp_path / "run" / "pretrain.partial")
    cluster = ClusterConfig.model_validate({"launcher": "torchrun", "nodes": 2, "rendezvous": {"endpoint": "a:29400"}})
    return replace(job, cluster=cluster)


def waits(job: Job[PretrainConfig]) -> Waiting:
    with pytest.raises(Waiting) as waiting:
        run(job)
    return waiting.value


def test_prepared_then_at_work_then_cut(sent: Job[PretrainConfig]) -> None:
    prepared = waits(sent)
    assert "pretrain is prepared in" in prepared.told
    assert len(prepared.commands) == 2
    rank_job = RankJob.read(sent.out / "job.json")
    losses.keep_up_to(rank_job.losses, 0)
    losses.append(rank_job.losses, losses.Row(1, 6.0, 0.1, 1.0, 256, 0.1))
    Heartbeat(rank_job.beats, 0, 2, 1800).stop()
    assert waits(sent).commands == []
    assert "step 1 of 8; the ranks are at work" in str(waits(sent))
    write_whole(rank_job.outcome, json.dumps({"step": 1, "broken": None, "layers": "", "why": ""}))  # SIGTERM, say
    assert waits(sent).commands == prepared.commands
    assert "step 1 of 8, and no rank is at work" in str(waits(sent))


def test_what_ended_the_ranks_elsewhere_is_told_here(sent: Job[PretrainConfig]) -> None:
    waits(sent)
    rank_job = RankJob.read(sent.out / "job.json")
    write_whole(rank_job.outcome, json.dumps({"step": 3, "broken": {"step": 4, "zero": False}}))
    with pytest.raises(StageFailed, match=r"PRETRAIN-006 .*at step 4"):
        run(sent)
    rank_job.outcome.unlink()
    Heartbeat(rank_job.beats, 1, 2, 1800).stop()
    write_hung(rank_job.beats, read(rank_job.beats))
    with pytest.raises(StageFailed, match=r"PRETRAIN-022 .*rank 1 did not move"):
        run(sent)


def test_a_changed_recipe_does_not_clear_away_what_ranks_elsewhere_are_at(sent: Job[PretrainConfig]) -> None:
    workplace.open_partial(sent)
    changed = replace(sent, seed=7)
    assert check(changed) == []
    Heartbeat(sent.out / BEATS, 0, 2, 1800).stop()
    assert check(sent) == []
    assert [p.code for p in check(changed)] == ["CLUSTER-017"]
