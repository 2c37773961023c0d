"""What must hold before a teacher is asked. Pure, nothing is sent, no torch."""

from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.stage import Job
from easyllm.instruct.clean.checks import clean_problems
from easyllm.instruct.config import InstructConfig
from easyllm.instruct.seeds import seeds_of
from easyllm.instruct.teacher.checks import teacher_problems

ONLY_FOR = {
    "instances": ("self-instruct",),
    "per_request": ("self-instruct", "one-call"),
    "shown": ("self-instruct", "one-call"),
    "fewer": ("self-instruct", "one-call"),
}
"""Keys that some methods alone read."""


def check(job: Job[InstructConfig]) -> list[Problem]:
    """Everything wrong with the section, its teacher and its seed tasks."""
    return [*teacher_problems(job), *_keys(job), *_held_out(job), *_seeds(job), *clean_problems(job)]


def _keys(job: Job[InstructConfig]) -> list[Problem]:
    """INSTRUCT-006: a key that this method would not read."""
    method, written = job.config.method, job.config.model_fields_set
    return [
        problem("INSTRUCT-006", stage=job.stage, key=f"instruct.{name}", method=method, methods=", ".join(methods))
        for name, methods in ONLY_FOR.items()
        if name in written and method not in methods
    ]


def _held_out(job: Job[InstructConfig]) -> list[Problem]:
    asked, count = job.config.held_out_rows, job.config.count
    if asked < count:
        return []
    return [problem("INSTRUCT-004", stage=job.stage, key="instruct.held_out_rows", asked=asked, count=count)]


def _seeds(job: Job[InstructConfig]) -> list[Problem]:
    """INSTRUCT-003: nothing to show in the language that is asked for; and what reading them finds."""
    if not job.ready("seeds"):
        return []
    try:
        found = {seed.language for seed in seeds_of(job)}
    except UserError as error:
        return list(error.problems)
    wanted = {"en", "zh"} if job.config.language == "both" else {job.config.language}
    if wanted & found:
        return []
    asked, there = ", ".join(sorted(wanted)), ", ".join(sorted(found)) or "-"
    return [problem("INSTRUCT-003", stage=job.stage, key="instruct.seeds", asked=asked, found=there)]
