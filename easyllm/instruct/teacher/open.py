"""The teacher of a job: a remote endpoint or a model of our own, with the answers and the ledger of the run."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from easyllm.core.stage import Job
from easyllm.instruct.config import InstructConfig
from easyllm.instruct.teacher.budget import Purse
from easyllm.instruct.teacher.checks import key_of
from easyllm.instruct.teacher.client import Client
from easyllm.instruct.teacher.endpoint import Endpoint
from easyllm.instruct.teacher.ledger import Ledger
from easyllm.instruct.teacher.local import NAME, LocalTeacher
from easyllm.instruct.teacher.store import Store

ANSWERS, LEDGER = "answers.jsonl", "ledger.jsonl"


@asynccontextmanager
async def open_teacher(job: Job[InstructConfig], kept: Path) -> AsyncIterator[Client]:
    """The client, for as long as the block lasts; answers and ledger stand in ``kept``.

    Raises UserError ROWS-00x and INSTRUCT-028 where they, or answers recorded elsewhere, cannot be read.
    """
    settings = job.config.teacher
    recorded = job.inputs["recorded"].files if "recorded" in job.inputs else ()
    store = Store(kept / ANSWERS, recorded)
    ledger = Ledger(kept / LEDGER, settings.price, store)
    async with AsyncExitStack() as at_end:
        if settings.local is not None:
            teacher = LocalTeacher(job.inputs["teacher.local"], job.cache_dir, settings)
            at_end.push_async_callback(teacher.close)
            endpoint, identity = Endpoint(settings, NAME, None, teacher.url), teacher.identity
        else:
            identity = str(settings.model)
            endpoint = Endpoint(settings, identity, key_of(settings), partial(_itself, str(settings.base_url)))
        purse = Purse(job.config.budget, ledger)
        yield await at_end.enter_async_context(Client(settings, identity, endpoint, store, ledger, purse))


async def _itself(url: str) -> str:
    return url.rstrip("/")
