"""The engine llama.cpp: one thread gives the library the next tokens of all running requests, again and again."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import torch

from easyllm.core.errors import StageFailed
from easyllm.core.messages import say
from easyllm.serve.contract import Abilities, EngineFailed, Sampling, Scored, Token
from easyllm.serve.engines.grammar import UNPROCESSABLE, Grammars, knows
from easyllm.serve.engines.llama_library import BATCH_OUTPUTS, BATCH_TOKENS, Llama, Row
from easyllm.serve.engines.sampling import Slot, choose, new_slot


@dataclass(eq=False)
class Work:
    """A request, and how far it has come."""

    ids: list[int]
    """What is to be read: prompt and answer so far, or all given tokens but the last."""
    loop: asyncio.AbstractEventLoop
    arrivals: "asyncio.Queue[Any]" = field(default_factory=asyncio.Queue)
    slot: Slot | None = None
    """Of an answer; None where given tokens are scored."""
    left: int = 0
    """Tokens that an answer may still have."""
    targets: list[int] = field(default_factory=list)
    """The given tokens to score, each after its own part of ``ids``."""
    likeliest: int = 0
    """How many likeliest tokens a score tells."""
    sequence: int = -1
    """Where the library keeps it."""
    read: int = 0
    """Tokens of ``ids`` that the library has seen."""
    ended: bool = False
    """Whether it is complete, or nobody waits for it any more."""

    def tell(self, what: Any) -> None:
        """Hand a token, a score or an exception to whoever waits for it."""
        try:
            self.loop.call_soon_threadsafe(self.arrivals.put_nowait, what)
        except RuntimeError:  # its event loop has ended, so nobody waits
            self.ended = True


class LlamaEngine:
    """Token ids in, token ids out, by llama.cpp; tokens are chosen by the same code as the embedded engine's."""

    def __init__(self, llama: Llama, tokenizer: Any, ends: list[int]) -> None:
        self._llama = llama
        self._ends = frozenset(ends)
        self._grammars = Grammars(tokenizer, llama.vocabulary_size, ends) if knows(tokenizer) else None
        self._free = list(range(llama.sequences))
        self._kept: list[list[int]] = [[] for _ in self._free]
        """What the library still holds of each sequence: a prompt that begins like it need not be read again."""
        self._waiting: deque[Work] = deque()
        self._running: list[Work] = []
        self._change = threading.Condition()
        self._stopped = False
        self._trouble: str | None = None
        self.restarts = 0  # a worker that has died is not started again here
        self._thread = threading.Thread(target=self._work, name="llama.cpp", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        return self._trouble

    @property
    def running(self) -> int:
        """Requests it still works on."""
        return len(self._waiting) + len(self._running)

    @property
    def abilities(self) -> Abilities:
        return Abilities(penalties=True, likeliest=True, grammar=self._grammars is not None, score=True)

    async def generate(
        self, ids: list[int], max_new_tokens: int, sampling: Sampling, adapter: str | None = None
    ) -> AsyncGenerator[Token, None]:
        follower = None
        if sampling.grammar and self._grammars:
            follower = await self._grammars.follower(sampling.grammar)
        slot = new_slot(sampling, ids, follower)
        work = Work(list(ids), asyncio.get_running_loop(), slot=slot, left=max_new_tokens)
        self._take(work)
        try:
            for _ in range(max_new_tokens):
                token = await self._next(work)
                yield token
                if token.id in self._ends:
                    return
        finally:
            self._drop(work)

    async def score(self, ids: list[int], likeliest: int, adapter: str | None = None) -> list[Scored]:
        found: list[Scored] = [(None, None)]
        if len(ids) < 2:
            return found
        work = Work(ids[:-1], asyncio.get_running_loop(), targets=ids[1:], likeliest=likeliest)
        self._take(work)
        try:
            while len(found) < len(ids):
                found.append(await self._next(work))
        finally:
            self._drop(work)
        return found

    async def _next(self, work: Work) -> Any:
        arrived = await work.arrivals.get()
        if isinstance(arrived, BaseException):
            raise arrived
        return arrived

    def _take(self, work: Work) -> None:
        with self._change:
            if self._stopped or self._trouble:
                raise EngineFailed(self._trouble or say("engine_stopping"), 503)
            self._waiting.append(work)
            self._change.notify()

    def _drop(self, work: Work) -> None:
        with self._change:
            work.ended = True
            if work in self._waiting:
                self._waiting.remove(work)
            self._change.notify()

    def stop(self) -> None:
        """End the thread and give the model's memory back; what still runs is told so."""
        with self._change:
            self._stopped = True
            self._change.notify()
        self._thread.join()
        self._llama.close()

    # What follows runs in the engine's own thread.

    def _work(self) -> None:
        try:
            while self._admit():
                rows, owners = self._batch()
                try:
                    found = self._llama.process(rows)
                except StageFailed as error:
                    self._fail(EngineFailed(str(error)))
                    continue
                for place, logits in found.items():
                    self._hear(owners[place], logits, rows[place].position)
        finally:
            with self._change:
                self._trouble = None if self._stopped else say("engine_died")
            self._fail(EngineFailed(self._trouble or say("engine_stopping"), 503))

    def _admit(self) -> bool:
        """Wait until there is work and give sequences to what waits; False when the engine is to end."""
        with self._change:
            while True:
                for work in [work for work in self._running if work.ended]:
                    self._leave(work)
                while self._waiting and self._free:
                    self._enter(self._waiting.popleft())
                if self._stopped:
                    return False
                if self._running:
                    return True
                self._change.wait()

    def _enter(self, work: Work) -> None:
        """Give ``work`` the free sequence that begins most like it."""
        work.sequence = max(self._free, key=lambda number: common(self._kept[number], work.ids))
        self._free.remove(work.sequence)
        # The last token is always read, for the logits after it; a score wants those after every token.
        known = min(common(self._kept[work.sequence], work.ids), len(work.ids) - 1) if work.slot else 0
        if not self._llama.forget(work.sequence, known):
            self._llama.forget(work.sequence)  # a recurrent state cannot be cut
            known = 0
        self._kept[work.sequence] = []
        work.read = known
        self._running.append(work)

    def _leave(self, work: Work) -> None:
        self._running.remove(work)
        self._kept[work.sequence] = work.ids[: work.read]
        self._free.append(work.sequence)

    def _batch(self) -> tuple[list[Row], list[Work]]:
        """The next token of every answer, and of what is still to be read an equal share of the room that is left."""
        answering = [work for work in self._running if work.slot and len(work.ids) - work.read == 1]
        reading = [work for work in self._running if work not in answering]
        share = max(1, (BATCH_TOKENS - len(answering)) // max(1, len(reading)))
        # What is scored gives logits at every token, and their room is smaller.
        scores = max(1, BATCH_OUTPUTS // len(self._running))
        rows: list[Row] = []
        owners: list[Work] = []
        for work in answering + reading:
            count = min(share if work.slot else min(share, scores), len(work.ids) - work.read)
            for position in range(work.read, work.read + count):
                wanted = work.slot is None or position == len(work.ids) - 1
                rows.append(Row(work.sequence, work.ids[position], position, wanted))
            owners += [work] * count
            work.read += count
        return rows, owners

    def _hear(self, work: Work, logits: torch.Tensor, position: int) -> None:
        """Choose the next token of an answer, or score the one that is given."""
        if work.ended:
            return
        if work.slot is None:
            work.tell(scored(logits, work.targets[position], work.likeliest))
            work.ended = work.ended or position == len(work.ids) - 1
            return
        token = choose(logits, work.slot)
        if work.slot.failure:
            work.tell(EngineFailed(say("engine_lost_grammar", reason=work.slot.failure), UNPROCESSABLE))
            work.ended = True
            return
        work.ids.append(token)
        work.left -= 1
        work.tell(work.slot.tokens[-1])
        work.ended = work.ended or token in self._ends or not work.left

    def _fail(self, error: EngineFailed) -> None:
        """Everything under way ends with ``error``; the sequences start anew."""
        with self._change:
            for work in [*self._running, *self._waiting]:
                work.tell(error)
                work.ended = True
            for work in list(self._running):
                work.read = 0
                self._leave(work)
            self._waiting.clear()


def common(first: list[int], second: list[int]) -> int:
    """How many tokens both begin with."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second))


def scored(logits: torch.Tensor, token: int, likeliest: int) -> Scored:
    """The log-probability of ``token``, and of so many likeliest ones at its place."""
    values = logits.log_softmax(-1)
    best = values.topk(likeliest) if likeliest else None
    named = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best else {}
    return float(values[token]), named
