"""The teacher as the pipelines see it: asked once for each request, however often it has to be sent."""

import asyncio
import random
from dataclasses import dataclass
from types import TracebackType

from easyllm.core.errors import StageFailed, UserError, failed, refuse
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.instruct.ask import Answer, Ask
from easyllm.instruct.config import Teacher
from easyllm.instruct.teacher.budget import Purse, worst_of
from easyllm.instruct.teacher.endpoint import FORBIDDEN, NOT_FOUND, TOO_MANY, UNAUTHORISED, Endpoint, Failure, Said
from easyllm.instruct.teacher.journal import STAGE
from easyllm.instruct.teacher.ledger import Ledger, Totals, Worst
from easyllm.instruct.teacher.store import Store, again
from easyllm.instruct.teacher.turns import Turns

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 60.0
LONGEST_ASKED_SECONDS = 300.0
"""An endpoint that asks to wait longer has no more for us today: the run ends and goes on when called again."""
WORTH_TELLING_SECONDS = 10.0


@dataclass(frozen=True)
class _Sent:
    """An attempt that has come back."""

    request: int
    """Its number in the ledger."""
    worst: Worst
    result: Said | Failure


class Client:
    """Implements ``Asked``. As an async context manager it hears out, at its end, what is on its way already."""

    def __init__(
        self, settings: Teacher, model: str, endpoint: Endpoint, store: Store, ledger: Ledger, purse: Purse
    ) -> None:
        self.model = model
        """Names the teacher in the keys of requests."""
        self._settings, self._endpoint = settings, endpoint
        self._store, self._ledger, self._purse = store, ledger, purse
        self._turns = Turns(settings.concurrency)
        self._tasks: dict[str, asyncio.Task[Answer]] = {}
        self._on_the_way: set[asyncio.Task[Answer]] = set()
        self._came = 0
        self._not_before = 0.0
        self._ended: UserError | StageFailed | None = None
        self._closing = False
        self._reached = False

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def totals(self) -> Totals:
        """What the whole run has spent so far, resumed or not."""
        return self._ledger.totals()

    async def ask(self, ask: Ask) -> Answer:
        """The answer that is kept, or a new one, which is on the disk before it is returned.

        Raises BudgetSpent where sending it could pass the budget, UserError or StageFailed where it cannot be had.
        Cancelled, it leaves a request that was sent already to be answered and kept.
        """
        key = ask.key(self.model)
        known = self._store.get(key)
        if known is not None:
            self._ledger.replayed(ask.purpose)
            return again(known)
        task = self._tasks.get(key)
        if task is not None:
            answer = await asyncio.shield(task)
            self._ledger.replayed(ask.purpose)
            return again(answer)
        self._came += 1
        task = asyncio.create_task(self._have(ask, key, self._came))
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for the answers to requests that were sent; nothing is sent any more. The totals stay."""
        if self._closing:
            return
        self._closing = True
        for task in list(self._tasks.values()):
            if task not in self._on_the_way:
                task.cancel()
        if self._on_the_way:
            note(say("teacher_hears_out", count=len(self._on_the_way)))
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._endpoint.close()
        self._store.close()
        self._ledger.close()

    def _forget(self, key: str, task: "asyncio.Task[Answer]") -> None:
        del self._tasks[key]
        self._on_the_way.discard(task)
        if not task.cancelled():
            task.exception()  # heard of, even where everybody who waited has gone

    async def _have(self, ask: Ask, key: str, number: int) -> Answer:
        """The answer, by as many attempts as are allowed."""
        failures: list[Failure] = []
        while True:
            async with self._turns.turn(number):
                sent = await self._send(ask, key)
            found = await self._settle(ask, key, sent)  # the next one is on its way while this one goes to the disk
            if isinstance(found, Answer):
                return found
            if not found.adapted:
                failures.append(found)
            if not found.again or len(failures) > self._settings.retries or self._hopeless(found):
                self._ended = self._ended or self._problem(failures)
                raise self._ended
            if self._closing:
                raise asyncio.CancelledError
            if not found.adapted:
                await self._rest(found, len(failures))

    async def _send(self, ask: Ask, key: str) -> _Sent:
        """One attempt. From the moment that it is in the ledger nobody who stops waiting can stop it."""
        await self._open_again()
        await self._ready()
        if self._ended is not None:
            raise self._ended
        body = self._endpoint.body(ask, key)
        worst = worst_of(ask, body, self._settings.price)
        request = await self._purse.send(ask.purpose, key, worst)
        task = asyncio.current_task()
        assert task is not None
        self._on_the_way.add(task)
        try:
            return _Sent(request, worst, await self._endpoint.send(body, key))
        except BaseException:
            await self._lose(request)
            raise

    async def _settle(self, ask: Ask, key: str, sent: _Sent) -> Answer | Failure:
        """Keep what came back and enter it in the books."""
        try:
            if isinstance(sent.result, Failure):
                self._ledger.failed(sent.request, sent.result.outcome)
                return sent.result
            answer = answer_of(key, sent.result, sent.worst)
            await self._store.keep(ask, answer)
            self._ledger.answered(sent.request, answer)
        except BaseException:
            await self._lose(sent.request)
            raise
        finally:
            await self._back()
        self._reached = True
        return answer

    async def _lose(self, request: int) -> None:
        self._ledger.lost(request)
        await self._back()

    async def _back(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._on_the_way.discard(task)
        await self._purse.settled()

    async def _ready(self) -> None:
        try:
            await self._endpoint.ready()
        except (UserError, StageFailed) as error:
            self._ended = self._ended or error
            raise

    async def _open_again(self) -> None:
        """Wait until the pause is over that an endpoint asked of everybody."""
        loop = asyncio.get_running_loop()
        while (left := self._not_before - loop.time()) > 0:
            await asyncio.sleep(left)

    async def _rest(self, failure: Failure, times: int) -> None:
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (times - 1)) * random.uniform(0.5, 1.0)
        if failure.pause is not None:
            pause = failure.pause * random.uniform(1.0, 1.1)
        if pause >= WORTH_TELLING_SECONDS:
            note(say("teacher_rests", seconds=round(pause), reason=f"{failure.outcome}: {failure.reason}"))
        if failure.outcome == str(TOO_MANY):
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + pause)
        await asyncio.sleep(pause)

    def _hopeless(self, failure: Failure) -> bool:
        """Whether waiting would be in vain: an address where nobody has ever answered, or a very long pause."""
        never = failure.outcome == "unreachable" and not self._reached
        return never or (failure.pause or 0) > LONGEST_ASKED_SECONDS

    def _problem(self, failures: list[Failure]) -> UserError | StageFailed:
        """What to tell of the last of ``failures``, after which nobody asks again."""
        last, teacher = failures[-1], self._settings
        where, model = teacher.base_url or str(teacher.local), self.model
        told = {"stage": STAGE, "url": where, "reason": last.reason}
        if last.outcome in (str(UNAUTHORISED), str(FORBIDDEN)):
            variable = teacher.key_variable
            return refuse("INSTRUCT-029", **told, key="instruct.teacher", variable=variable, status=last.outcome)
        if last.outcome == str(NOT_FOUND):
            return refuse("INSTRUCT-030", **told, key="instruct.teacher", model=model)
        if last.outcome == "unreachable":
            return failed("INSTRUCT-032", **told, key="instruct.teacher.base_url")
        if last.outcome == str(TOO_MANY) and (not last.again or (last.pause or 0) > LONGEST_ASKED_SECONDS):
            return failed("INSTRUCT-035", **told, seconds=round(last.pause or 0))
        if not last.again:
            return refuse("INSTRUCT-031", **told, key="instruct.teacher", status=last.outcome)
        if last.outcome == "malformed":
            return failed("INSTRUCT-033", **told)
        outcomes = ", ".join(failure.outcome for failure in failures)
        return failed("INSTRUCT-034", **told, times=len(failures), outcomes=outcomes)


def answer_of(key: str, said: Said, worst: Worst) -> Answer:
    """Where the endpoint counts no tokens, the most that they can have been."""
    prompt = worst.prompt if said.prompt_tokens is None else said.prompt_tokens
    completion = said.completion_tokens
    if completion is None:
        completion = min(worst.completion, len(said.text.encode()))
    return Answer(key, said.text, said.finish_reason, prompt, completion, said.cached_tokens, said.structured)
