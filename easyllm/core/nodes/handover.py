"""A job that somebody else starts: what to start, once everything is in place, or how far it is."""

from collections.abc import Callable

from easyllm.core.artifact import write_whole
from easyllm.core.errors import Waiting
from easyllm.core.messages import say
from easyllm.core.nodes import heartbeat
from easyllm.core.nodes.commands import commands, job_files, names_for_commands
from easyllm.core.nodes.launch import Launch


def at_work(launch: Launch, step: int, steps: int) -> Waiting | None:
    """The word that ranks are at it; None where none has spoken of late, or they have ended."""
    if launch.outcome.is_file():
        return None
    spoke = heartbeat.spoke_before(launch.beats, launch.timeout_seconds)
    if spoke is None:
        return None
    return Waiting(say("at_work", stage=launch.stage, step=step, steps=steps, seconds=round(spoke)), [])


def hand_over(launch: Launch, step: int, steps: int, write_job: Callable[[], object]) -> Waiting:
    """The word that the work waits for its commands, with everything in place for them; ``write_job`` comes last."""
    for name, text in job_files(launch).items():
        write_whole(launch.folder / name, text)
    write_job()
    cut = say("cut_elsewhere", stage=launch.stage, step=step, steps=steps)
    return Waiting(cut if step else say("handed_over", stage=launch.stage, path=launch.job.out), commands(launch))


def clear(launch: Launch) -> None:
    """Drop what only the commands needed: the artifact is the same whoever has started the ranks."""
    for name in names_for_commands(launch):
        (launch.folder / name).unlink(missing_ok=True)
