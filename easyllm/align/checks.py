"""The room exists, the work does not: every recipe that asks for it is told so before anything runs."""

from easyllm import __version__
from easyllm.align.config import AlignConfig
from easyllm.core.errors import Problem, problem
from easyllm.core.stage import Job


def check(job: Job[AlignConfig]) -> list[Problem]:
    return [problem("RUN-004", stage=job.stage, key=job.stage, version=__version__)]
