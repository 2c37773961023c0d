"""What an evaluation will do, in numbers. Pure, no torch."""

from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.conversations import read_conversations
from easyllm.core.stage import Job, Plan
from easyllm.evaluate.config import EvaluateConfig
from easyllm.evaluate.questions import questions
from easyllm.evaluate.sides import row_files, sides
from easyllm.evaluate.taskfiles import task_files


def plan(job: Job[EvaluateConfig]) -> Plan:
    """Rows, prompts and the two models, as far as they are known now."""
    files, why_rows = row_files(job)
    found = sides(job)
    figures: dict[str, Any] = {
        "model": job.inputs["model"].ref,
        "base": found.base.ref if found.base else "-",
        "held-out rows": sum(1 for _ in read_conversations(files, job.stage)),
        "prompts": len(questions(job)),
        "longest answer, tokens": job.config.max_new_tokens,
    }
    own = task_files(job)
    if own or job.config.tasks:
        figures |= {"tasks": len(own) + len(job.config.tasks), "rows of own tasks": sum(len(t.rows) for t in own)}
    if found.merged_from:
        figures["adapter"] = str(found.merged_from.adapter)
    if job.config.endpoint:
        figures["served"] = job.config.endpoint.base_url
    decisions = [
        Decision("base", figures["base"], found.why_base),
        Decision("rows", [file.name for file in files], why_rows),
    ]
    return Plan(figures, decisions=decisions)
