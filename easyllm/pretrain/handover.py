"""Training that somebody else starts: prepare it, say how far it is, and know when there is something to gather."""

import json
import time
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.errors import Waiting
from easyllm.core.messages import say
from easyllm.core.stage import Job
from easyllm.pretrain import checkpoints, heartbeat, losses
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.job import RankJob
from easyllm.pretrain.nodes import JOB_FILE, commands, job_files


def finished(rank_job: RankJob) -> bool:
    """Whether the ranks have left their last checkpoint."""
    last = checkpoints.path_of(rank_job.checkpoints, rank_job.config.steps)
    return last.is_dir() and (read_outcome(rank_job) or {}).get("step") == rank_job.config.steps


def read_outcome(rank_job: RankJob) -> dict[str, Any] | None:
    """What the first rank left at its end; None while there is none."""
    if not rank_job.outcome.is_file():
        return None
    outcome: dict[str, Any] = json.loads(rank_job.outcome.read_text("utf-8"))
    return outcome


def hand_over(job: Job[PretrainConfig], rank_job: RankJob) -> Waiting:
    """The word that the work waits for its commands, with everything in place for them."""
    quiet_for = _quiet_seconds(rank_job)
    steps, done = job.config.steps, len(losses.read(rank_job.losses))
    if quiet_for is not None and quiet_for < 3 * heartbeat.interval(job.config.timeout_seconds):
        return Waiting(say("at_work", step=done, steps=steps, seconds=round(quiet_for)), [])
    for name, text in job_files(job).items():
        write_whole(job.out / name, text)
    rank_job.write(job.out / JOB_FILE)
    told = say("cut_elsewhere", step=done, steps=steps) if done else say("handed_over", path=job.out)
    return Waiting(told, commands(job))


def clear(job: Job[PretrainConfig]) -> None:
    """Drop what only the commands needed: the artifact is the same whoever has started the ranks."""
    for name in (JOB_FILE, *job_files(job)):
        (job.out / name).unlink(missing_ok=True)


def _quiet_seconds(rank_job: RankJob) -> float | None:
    """Since when no rank has said a word; None where none ever did, or the last ones have ended."""
    if not rank_job.beats.is_dir() or rank_job.outcome.is_file():
        return None
    return min((time.time() - beat.time for beat in heartbeat.read(rank_job.beats)), default=None)
