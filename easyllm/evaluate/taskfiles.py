"""A user's own task: a file of multiple-choice or of generation rows, read and checked. No lm-eval here."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from easyllm.core.errors import UserError, problem, refuse
from easyllm.core.rows import read_rows
from easyllm.core.stage import Job
from easyllm.evaluate.config import EvaluateConfig

Kind = Literal["choice", "generation"]
MATCHES = ("exact", "contains", "regex")


@dataclass(frozen=True)
class TaskFile:
    """Rows of one kind. Of a choice: question, choices, answer (its index); else: prompt, answers, match."""

    name: str
    """The file's name without its ending; so the task is called in the report."""
    kind: Kind
    rows: list[dict[str, Any]]


def task_files(job: Job[EvaluateConfig]) -> list[TaskFile]:
    """Every file of the recipe's ``task_files``. Raises UserError ROWS-00x, EVAL-010 to EVAL-012."""
    found: dict[str, TaskFile] = {}
    for path in job.inputs["task_files"].files if "task_files" in job.inputs else ():
        task = _read(path, job.stage)
        if task.name in found or task.name in job.config.tasks:
            raise refuse("EVAL-012", stage=job.stage, key="evaluate.task_files", file=path, name=task.name)
        found[task.name] = task
    return list(found.values())


def matches(answer: str, row: dict[str, Any]) -> bool:
    """Whether ``answer`` is one of the row's, as its ``match`` says; case counts for a regular expression only."""
    if row["match"] == "regex":
        return any(re.search(wanted, answer) for wanted in row["answers"])
    said, wanted = answer.strip().casefold(), [text.strip().casefold() for text in row["answers"]]
    return said in wanted if row["match"] == "exact" else any(text in said for text in wanted)


def _read(path: Path, stage: str) -> TaskFile:
    name = re.sub(r"[^\w.-]+", "_", path.name.partition(".")[0]) or "task"
    rows: list[dict[str, Any]] = []
    kinds: list[Kind] = []
    for line, row in read_rows(path, stage):
        kind: Kind = "choice" if "choices" in row else "generation"
        made = _choice(row) if kind == "choice" else _generation(row)
        if made is None or kind != (kinds or [kind])[0]:
            raise UserError(problem("EVAL-010" if made is None else "EVAL-011", stage=stage, file=path, line=line))
        rows.append(made)
        kinds.append(kind)
    if not rows:
        raise refuse("EVAL-010", stage=stage, file=path)
    return TaskFile(name, kinds[0], rows)


def _choice(row: dict[str, Any]) -> dict[str, Any] | None:
    question, choices, answer = row.get("question"), row.get("choices"), row.get("answer")
    if set(row) != {"question", "choices", "answer"} or not _text(question) or not isinstance(choices, list):
        return None
    if len(choices) < 2 or not all(_text(choice) for choice in choices) or len(set(choices)) < len(choices):
        return None
    if isinstance(answer, str):
        answer = choices.index(answer) if answer in choices else None
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        return None
    return {"question": question, "choices": choices, "answer": answer}


def _generation(row: dict[str, Any]) -> dict[str, Any] | None:
    prompt, answer, match = row.get("prompt"), row.get("answer"), row.get("match", "exact")
    answers = answer if isinstance(answer, list) else [answer]
    if not set(row) <= {"prompt", "answer", "match"} or not _text(prompt) or match not in MATCHES:
        return None
    if not answers or not all(_text(text) for text in answers):
        return None
    if match == "regex" and not all(_compiles(text) for text in answers):
        return None
    return {"prompt": prompt, "answers": answers, "match": match}


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
