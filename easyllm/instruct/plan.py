"""What instruct will ask for, in numbers. Pure, no torch, nothing is sent."""

from math import ceil

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.instruct.config import InstructConfig
from easyllm.instruct.kept import kept_of
from easyllm.instruct.seeds import Seed, seeds_of
from easyllm.instruct.teacher.open import ANSWERS

BYTES_PER_ANSWER_TOKEN = 8
"""An answer with its request, as kept; a guess on the large side."""


def plan(job: Job[InstructConfig]) -> Plan:
    """Seed tasks, rows, the fewest requests that can make them, and what is there already."""
    config, teacher = job.config, job.config.teacher
    seeds = seeds_of(job) if job.ready("seeds") else []
    requests = fewest_requests(config, len(instances_of(seeds)))
    figures = {
        "teacher": teacher.model or teacher.local or "-",
        "seed tasks": len(seeds),
        "rows": config.count,
        "requests, at least": requests,
        "answer tokens, at most": requests * teacher.max_tokens,
        "answers kept": _kept_answers(job),
    }
    if teacher.price:
        figures["cost of answers, at most"] = round(requests * teacher.max_tokens * teacher.price.completion / 1e6, 4)
    where = say("why_teacher_local") if teacher.local else say("why_teacher_remote", url=teacher.base_url)
    decisions = [
        Decision("teacher", figures["teacher"], where),
        Decision("method", config.method, say(f"why_method_{config.method.replace('-', '_')}")),
    ]
    return Plan(figures, decisions=decisions, disk_bytes=requests * teacher.max_tokens * BYTES_PER_ANSWER_TOKEN)


def fewest_requests(config: InstructConfig, instances: int) -> int:
    """Where every answer is good: nothing dropped, nothing asked again."""
    if config.method == "answers":
        rows = asked = min(config.count, instances)
    elif config.method == "one-call":
        rows, asked = config.count, ceil(config.count / config.per_request)
    else:
        rows, tasks = config.count, ceil(config.count / config.instances)
        asked = ceil(tasks / config.per_request) + 2 * tasks
    harder = config.evolve.rounds * round(config.evolve.share * rows) if config.evolve else 0
    return asked + 2 * harder + (rows + harder if config.clean.score else 0)


def instances_of(seeds: list[Seed]) -> list[dict[str, str]]:
    return [instance for seed in seeds for instance in seed.instances]


def _kept_answers(job: Job[InstructConfig]) -> int:
    path = kept_of(job).folder / ANSWERS
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
