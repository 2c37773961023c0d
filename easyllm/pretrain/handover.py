"""Training that somebody else starts: prepare it, say how far it is, and know when there is something to gather."""

import json
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.errors import Waiting
from easyllm.core.messages import say
from easyllm.core.stage import Job
from easyllm.pretrain import checkpoints, heartbeat, losses
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.job import RankJob
from easyllm.pretrain.nodes import FOR_COMMANDS, JOB_FILE, commands, job_files


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
    steps, done = job.config.steps, len(losses.read(rank_job.losses))
    if not rank_job.outcome.is_file():
        spoke = heartbeat.spoke_before(rank_job.beats, job.config.timeout_seconds)
        if spoke is not None:
            return Waiting(say("at_work", step=done, steps=steps, seconds=round(spoke)), [])
    for name, text in job_files(job).items():
        write_whole(job.out / name, text)
    rank_job.write(job.out / JOB_FILE)
    told = say("cut_elsewhere", step=done, steps=steps) if done else say("handed_over", path=job.out)
    return Waiting(told, commands(job))


def clear(job: Job[PretrainConfig]) -> None:
    """Drop what only the commands needed: the artifact is the same whoever has started the ranks."""
    for name in FOR_COMMANDS:
        (job.out / name).unlink(missing_ok=True)
