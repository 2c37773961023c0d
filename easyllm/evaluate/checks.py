"""What must hold before anything is measured. Pure, no torch."""

from easyllm.core.conversations import read_conversations
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.stage import Job
from easyllm.evaluate.config import EvaluateConfig
from easyllm.evaluate.questions import questions
from easyllm.evaluate.sides import row_files, sides

CHECKED_BYTES = 20_000_000
"""Data up to this size is read whole by a check; more is left to the run."""


def check(job: Job[EvaluateConfig]) -> list[Problem]:
    """Every problem that can be known now; a model that is not there yet is passed over."""
    return [*_nothing(job), *_readable(job)]


def _nothing(job: Job[EvaluateConfig]) -> list[Problem]:
    """EVAL-001, once the model can say whether rows were held out."""
    asked = job.config.prompts or "prompt_files" in job.inputs or "data" in job.inputs
    if asked or (job.inputs["model"].stage is not None and not job.ready("model")):
        return []
    return [] if row_files(job)[0] else [problem("EVAL-001", stage=job.stage, key="evaluate.prompts")]


def _readable(job: Job[EvaluateConfig]) -> list[Problem]:
    problems: list[Problem] = []
    for read in (questions, _rows, sides):
        try:
            read(job)
        except UserError as error:
            problems += error.problems
    return problems


def _rows(job: Job[EvaluateConfig]) -> None:
    files, _ = row_files(job)
    if sum(file.stat().st_size for file in files) <= CHECKED_BYTES:
        for _ in read_conversations(files, job.stage):
            pass
