"""Ask the teacher, clean what comes, wait for a person, and hand on what he accepted."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.messages import say, term
from easyllm.core.progress import note, progress
from easyllm.core.stage import Job, Result
from easyllm.instruct.ask import BudgetSpent
from easyllm.instruct.clean import report
from easyllm.instruct.clean.cleaner import Cleaner
from easyllm.instruct.config import InstructConfig
from easyllm.instruct.gather import gather
from easyllm.instruct.kept import Kept, kept_of
from easyllm.instruct.making.harvest import Harvest
from easyllm.instruct.making.make import make_rows
from easyllm.instruct.making.workshop import Fruitless, Workshop
from easyllm.instruct.seeds import Seed, seeds_of
from easyllm.instruct.teacher.ledger import Totals
from easyllm.instruct.teacher.open import open_teacher


def run(job: Job[InstructConfig]) -> Result:
    """rows.jsonl of accepted rows, and all that was dropped or rejected on the way.

    Raises Waiting while rows are undecided; UserError INSTRUCT-009 and -010 where there are too few.
    """
    kept = kept_of(job)
    kept.folder.mkdir(parents=True, exist_ok=True)
    return gather(job, kept, kept.made_for(job) or make(job, kept))


def make(job: Job[InstructConfig], kept: Kept) -> dict[str, Any]:
    """Fill ``kept`` with rows to review; what is told of them is {"metrics", "records", "short"}."""
    config = job.config
    seeds = seeds_of(job)
    with progress("instruct", config.count, "rows") as bar:
        harvest = Harvest(cleaner_of(job, seeds), bar)
        short, spent = asyncio.run(_ask(job, kept.folder, seeds, harvest))
    if short and (config.fewer == "refuse" or not harvest.rows):
        raise UserError(short)
    if short:
        note(say("instruct_fewer", rows=len(harvest.rows), count=config.count))
    report.write(kept.folder, harvest.rows, harvest.dropped, spent.as_json())
    told = {
        "metrics": {"made": len(harvest.rows), "dropped": len(harvest.dropped)},
        "records": {"dropped": harvest.reasons(), "ledger": spent.as_json()},
        "short": str(short) if short else None,
    }
    kept.keep(job, harvest.rows, harvest.dropped, told)
    return told


def cleaner_of(job: Job[InstructConfig], seeds: Sequence[Seed]) -> Cleaner:
    """The recipe's filters. With ``method: answers`` the instructions are the seeds' own and none is new."""
    evaluation = job.inputs["clean.evaluation"].files if "clean.evaluation" in job.inputs else ()
    return Cleaner(job.config.clean, [(seed.instruction, seed.language) for seed in seeds], evaluation)


async def _ask(
    job: Job[InstructConfig], folder: Path, seeds: Sequence[Seed], harvest: Harvest
) -> tuple[Problem | None, Totals]:
    """(why there are fewer rows than asked for, what has been spent): None where there are enough."""
    async with open_teacher(job, folder) as teacher:
        try:
            await make_rows(Workshop(job.config, seeds, teacher, harvest, job.seed))
        except BudgetSpent as error:
            return _spent(job, harvest, error), teacher.totals()
        except Fruitless:
            return _fruitless(job, harvest), teacher.totals()
        return None, teacher.totals()


def _spent(job: Job[InstructConfig], harvest: Harvest, error: BudgetSpent) -> Problem:
    key = f"instruct.budget.{error.what}"
    numbers: dict[str, Any] = {"spent": error.spent, "limit": error.limit, "what": term(error.what)}
    return problem("INSTRUCT-010", stage=job.stage, key=key, rows=len(harvest.rows), count=job.config.count, **numbers)


def _fruitless(job: Job[InstructConfig], harvest: Harvest) -> Problem:
    reasons = ", ".join(f"{term(reason)} {count}" for reason, count in harvest.reasons().items()) or "-"
    rows = len(harvest.rows)
    return problem(
        "INSTRUCT-009", stage=job.stage, key="instruct.count", reasons=reasons, rows=rows, count=job.config.count
    )
