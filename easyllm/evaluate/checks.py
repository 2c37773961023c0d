"""What must hold before anything is measured. Pure, no torch."""

from typing import Any

from easyllm.core.conversations import read_conversations
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.rows import few
from easyllm.core.stage import Job
from easyllm.evaluate.config import EvaluateConfig
from easyllm.evaluate.questions import questions
from easyllm.evaluate.sides import row_files, sides
from easyllm.evaluate.taskfiles import task_files


def check(job: Job[EvaluateConfig]) -> list[Problem]:
    """Every problem that can be known now; a model that is not there yet is passed over."""
    return [*_nothing(job), *_readable(job), *_unused(job), *_shots(job), *_key(job)]


def _nothing(job: Job[EvaluateConfig]) -> list[Problem]:
    """EVAL-001, once the model can say whether rows were held out."""
    given = {"prompt_files", "data", "task_files"} & set(job.inputs)
    asked = job.config.prompts or job.config.tasks or given
    if asked or (job.inputs["model"].stage is not None and not job.ready("model")):
        return []
    return [] if row_files(job)[0] else [problem("EVAL-001", stage=job.stage, key="evaluate.prompts")]


def _readable(job: Job[EvaluateConfig]) -> list[Problem]:
    problems: list[Problem] = []
    for read in (questions, _rows, sides, task_files):
        try:
            read(job)
        except UserError as error:
            problems += error.problems
    return problems


def _unused(job: Job[EvaluateConfig]) -> list[Problem]:
    """EVAL-018: keys of tasks that were set where there is no task that they could be for."""
    config = job.config
    idle = [] if config.tasks else ["task_data", "task_folder"]
    if not config.tasks and "task_files" not in job.inputs:
        idle += ["chat", "shots", "limit_rows"]
    keys = [key for key in idle if key in config.model_fields_set]
    return [problem("EVAL-018", stage=job.stage, key=f"evaluate.{key}") for key in keys]


def _shots(job: Job[EvaluateConfig]) -> list[Problem]:
    """EVAL-020: more solved examples than a task file has rows beside the one that is asked."""
    shots = job.config.shots or 0
    try:
        files = task_files(job) if shots else []
    except UserError:
        return []  # told already
    few = [file for file in files if len(file.rows) <= shots]
    told: dict[str, Any] = {"stage": job.stage, "key": "evaluate.shots", "shots": shots}
    return [problem("EVAL-020", **told, name=file.name, rows=len(file.rows)) for file in few]


def _key(job: Job[EvaluateConfig]) -> list[Problem]:
    """EVAL-019: an endpoint's key that is not in the environment, or that no request could carry."""
    endpoint = job.config.endpoint
    if endpoint is None or endpoint.key_variable is None or endpoint.key():
        return []
    key = "evaluate.endpoint.key_variable"
    return [problem("EVAL-019", stage=job.stage, key=key, variable=endpoint.key_variable)]


def _rows(job: Job[EvaluateConfig]) -> None:
    files, _ = row_files(job)
    if few(files):
        for _ in read_conversations(files, job.stage):
            pass
