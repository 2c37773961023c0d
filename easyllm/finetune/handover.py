"""Ranks that somebody else starts: how far they are, and what ended them."""

import json
from functools import partial
from typing import Any

from easyllm.core.errors import Problem, StageFailed, UserError, Waiting, failed
from easyllm.core.nodes import handover, heartbeat
from easyllm.core.nodes.launch import Launch, elsewhere
from easyllm.core.progress import note
from easyllm.core.stage import Job
from easyllm.finetune import state
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.nodes import launch_of
from easyllm.finetune.work import Work


def at_work(job: Job[FinetuneConfig]) -> Waiting | None:
    """The word that ranks on other machines are at it, before anything is read here; None where none is."""
    launch = launch_of(job)
    if not elsewhere(job) or heartbeat.read_hung(launch.beats):
        return None
    step = max((beat.step for beat in heartbeat.read(launch.beats)), default=None)
    if step is None:
        return None
    return handover.at_work(launch, step, len(json.loads(launch.job_file.read_text("utf-8"))["steps"]))


def outcome_of(job: Job[FinetuneConfig], work: Work) -> dict[str, Any]:
    """What ranks elsewhere have left at their end; until then Waiting says what to start."""
    launch = launch_of(job)
    outcome = read_outcome(launch)
    if outcome and "rows" in outcome:
        return outcome
    launch.folder.mkdir(exist_ok=True)
    step, steps = state.newest_step(work.state), len(work.steps)
    waiting = handover.hand_over(launch, step, steps, partial(work.write, launch.folder))  # whatever ended the ranks
    if outcome and "stopped" not in outcome:
        note(str(waiting))  # the end is told below, and how to begin again beside it
        raise_what_ended(outcome)
    if heartbeat.read_hung(launch.beats):
        note(str(waiting))
        raise_where_hung(launch)
    raise waiting


def read_outcome(launch: Launch) -> dict[str, Any] | None:
    """What the first rank left; None while there is nothing."""
    if not launch.outcome.is_file():
        return None
    outcome: dict[str, Any] = json.loads(launch.outcome.read_text("utf-8"))
    return outcome


def raise_what_ended(outcome: dict[str, Any]) -> None:
    """The refusal, the diagnosis or the request that ended the ranks before their last step, as if it were here."""
    if "refused" in outcome:
        raise UserError(*[Problem(**problem) for problem in outcome["refused"]])
    if "failed" in outcome:
        raise StageFailed(Problem(**outcome["failed"][0]))
    if "stopped" in outcome:
        raise KeyboardInterrupt


def raise_where_hung(launch: Launch) -> None:
    """StageFailed with the ranks that moved no more, where there are such."""
    hung = heartbeat.read_hung(launch.beats)
    if not hung:
        return
    names, first = ", ".join(str(beat["rank"]) for beat in hung), hung[0]
    raise failed(
        "TRAIN-038", stage=launch.stage, key=launch.stage, ranks=names, seconds=launch.timeout_seconds,
        host=first["host"], pid=first["pid"], at=first["at"], step=first["step"] + 1,
    )  # fmt: skip
