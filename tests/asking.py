"""A teacher's job and requests for it, and a program that asks them: to be killed in the middle.

``python tests/asking.py FOLDER URL COUNT`` asks COUNT requests and keeps what it hears in FOLDER.
"""

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

from easyllm.core.digest import Digests
from easyllm.core.inputs import Place, resolve
from easyllm.core.stage import Job
from easyllm.instruct.ask import Answer, Ask
from easyllm.instruct.config import InstructConfig
from easyllm.instruct.ordered import in_order
from easyllm.instruct.teacher.client import Client
from easyllm.instruct.teacher.open import open_teacher

TEXT = {"type": "string"}
SCHEMA = {
    "title": "Instructions", "type": "object", "required": ["instructions"], "additionalProperties": False,
    "properties": {"instructions": {"type": "array", "items": TEXT}},
}  # fmt: skip
FORM = "Write each on a line of its own.\nFORM: Instructions"


def teacher_job(folder: Path, url: str | None = None, **settings: Any) -> Job[InstructConfig]:
    """The stage's job as the pipeline makes it; all settings but ``budget`` and ``recorded`` are the teacher's."""
    seeds = folder / "seeds.jsonl"
    seeds.write_text('{"instruction": "Name a colour.", "input": "", "output": "Blue."}\n', "utf-8")
    own = {name: settings.pop(name) for name in ("budget", "recorded") if name in settings}
    known = {"base_url": url, "model": "tester"} if url else {}
    config = InstructConfig.model_validate({"teacher": known | settings, "seeds": [str(seeds)], **own})
    run_dir = folder / "run"
    place = Place(folder, run_dir, folder / "cache", ("instruct",), ("instruct",), Digests(folder / "digests.json"))
    inputs = resolve("instruct", config, place)
    return Job("instruct", config, inputs, 1, "demo", run_dir, place.cache_dir, run_dir / "instruct.partial")


def question(number: int, **changes: Any) -> Ask:
    """The request of that number: English and Chinese in turn."""
    told = f"Write four new tasks, number {number}." if number % 2 else f"请写四个新任务，第 {number} 批。"
    messages = ({"role": "system", "content": "You think up tasks."}, {"role": "user", "content": told})
    asked = {"schema": SCHEMA, "form": FORM, "temperature": 0.7, "max_tokens": 256} | changes
    return Ask(purpose=asked.pop("purpose", "instructions"), messages=messages, **asked)


async def ask_all(client: Client, asks: list[Ask], heard: list[Answer] | None = None) -> list[Answer]:
    """Their answers in order, put into ``heard`` as they come."""
    heard = [] if heard is None else heard
    lookahead = 64
    async with aclosing(in_order(lambda k: asks[k] if k < len(asks) else None, client.ask, lookahead)) as answers:
        async for _, answer in answers:
            heard.append(answer)
    return heard


def answers_to(job: Job[InstructConfig], asks: list[Ask]) -> tuple[list[Answer], Any]:
    """(answers, the ledger's totals) of one whole run."""

    async def run() -> tuple[list[Answer], Any]:
        async with open_teacher(job, kept(job)) as client:
            return await ask_all(client, asks), client.totals()

    return asyncio.run(run())


def kept(job: Job[InstructConfig]) -> Path:
    """Where answers and ledger stand."""
    return job.run_dir / "instruct.kept"


if __name__ == "__main__":
    where, address, count = sys.argv[1:]
    found, _ = answers_to(
        teacher_job(Path(where), address, retries=20, timeout_seconds=3),
        [question(number) for number in range(int(count))],
    )
    print(len(found))
