"""What must hold before a teacher is asked anything. Pure: nothing is sent."""

import os
from urllib.parse import urlsplit

from easyllm.core.addresses import is_base_address, is_loopback, without_password
from easyllm.core.errors import Problem, problem
from easyllm.core.stage import Job
from easyllm.instruct.config import InstructConfig, Teacher
from easyllm.instruct.teacher.journal import STAGE
from easyllm.instruct.teacher.local import room_problems


def teacher_problems(job: Job[InstructConfig]) -> list[Problem]:
    """INSTRUCT-020 to 027 and 036, 037: who is the teacher, has it a key, can the budget ever be enough."""
    teacher = job.config.teacher
    if (teacher.base_url is None) == (teacher.local is None):
        return [problem("INSTRUCT-020", stage=STAGE, key="instruct.teacher")]
    found = local_problems(job) if teacher.local is not None else address_problems(job)
    if teacher.concurrency > teacher.lookahead:
        found.append(
            problem(
                "INSTRUCT-026", stage=STAGE, key="instruct.teacher.lookahead",
                concurrency=teacher.concurrency, lookahead=teacher.lookahead,
            )
        )  # fmt: skip
    return found + budget_problems(job.config)


def local_problems(job: Job[InstructConfig]) -> list[Problem]:
    """Fields that only an endpoint has, and an answer as long as all that the model can take."""
    teacher, found = job.config.teacher, []
    for name in ("model", "key_variable"):
        if name in teacher.model_fields_set and getattr(teacher, name) is not None:
            found.append(problem("INSTRUCT-023", stage=STAGE, key=f"instruct.teacher.{name}", name=name))
    source = job.inputs.get("teacher.local")
    path = source.path if source and job.ready("teacher.local") else None
    if path is not None and (path / "config.json").is_file():
        found += room_problems(teacher, path)
    return found


def address_problems(job: Job[InstructConfig]) -> list[Problem]:
    """Of base_url, model and key."""
    teacher = job.config.teacher
    url, found = str(teacher.base_url), []
    if not is_base_address(url):
        found.append(problem("INSTRUCT-021", stage=STAGE, key="instruct.teacher.base_url", asked=without_password(url)))
    if not teacher.model:
        found.append(problem("INSTRUCT-022", stage=STAGE, key="instruct.teacher.model"))
    variable, key = teacher.key_variable, key_of(teacher)
    if key is None:
        if not found and not is_loopback(urlsplit(url).hostname or "") and not job.config.recorded:
            found.append(problem("INSTRUCT-024", stage=STAGE, key="instruct.teacher.key_variable", variable=variable))
    elif not (key.isascii() and key.isprintable() and " " not in key):
        found.append(problem("INSTRUCT-025", stage=STAGE, key="instruct.teacher.key_variable", variable=variable))
    return found


def budget_problems(config: InstructConfig) -> list[Problem]:
    """INSTRUCT-027 and 037: money without prices, and limits that one longest answer passes alone."""
    teacher, budget = config.teacher, config.budget
    found = []
    if budget.money is not None and teacher.price is None:
        found.append(problem("INSTRUCT-027", stage=STAGE, key="instruct.teacher.price", money=budget.money))
    needs: dict[str, float] = {"tokens": teacher.max_tokens}
    if teacher.price is not None:
        needs["money"] = teacher.max_tokens * teacher.price.completion / 1e6
    for name, needed in needs.items():
        limit = getattr(budget, name)
        if limit is not None and needed >= limit:
            found.append(
                problem(
                    "INSTRUCT-037", stage=STAGE, key=f"instruct.budget.{name}", name=name, limit=limit,
                    needed=needed, max_tokens=teacher.max_tokens,
                )
            )  # fmt: skip
    return found


def key_of(teacher: Teacher) -> str | None:
    """The API key in the environment; None where there is none."""
    return os.environ.get(teacher.key_variable, "").strip() or None
