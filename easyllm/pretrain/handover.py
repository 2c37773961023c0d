"""Training that somebody else starts: how far it is, and when there is something to gather."""

import json
from functools import partial
from typing import Any

from easyllm.core.errors import Waiting
from easyllm.core.nodes import handover
from easyllm.core.stage import Job
from easyllm.pretrain import checkpoints, losses
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.job import RankJob
from easyllm.pretrain.nodes import launch_of


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
    """The word that ranks are at work, or that the work waits for its commands, with everything in place for them."""
    launch, steps, done = launch_of(job), job.config.steps, len(losses.read(rank_job.losses))
    write = partial(rank_job.write, launch.job_file)
    return handover.at_work(launch, done, steps) or handover.hand_over(launch, done, steps, write)
