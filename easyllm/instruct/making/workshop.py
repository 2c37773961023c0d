"""What every pipeline works with: prompts, examples to show, the teacher, and the harvest."""

import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, TypeVar

from easyllm.core.digest import of_value
from easyllm.instruct.ask import Answer, Ask, Asked
from easyllm.instruct.config import InstructConfig
from easyllm.instruct.making.harvest import Harvest
from easyllm.instruct.ordered import in_order
from easyllm.instruct.prompts import Prompts
from easyllm.instruct.row import Row
from easyllm.instruct.seeds import Seed

AGAIN = 1_000_000
"""Added to the draw of a request that is asked a second time, because the first answer could not be read."""

FRUITLESS_REQUESTS = 24
"""After so many answers one after the other without a new row, more of them would only cost money."""

LEAST_PER_REQUEST = 0.25
"""New tasks that a request is expected to bring at the least, however few came so far."""

T = TypeVar("T")
R = TypeVar("R")


class Fruitless(Exception):
    """The teacher gives nothing new any more."""


@dataclass
class Workshop:
    """One run of the stage."""

    config: InstructConfig
    seeds: Sequence[Seed]
    teacher: Asked
    harvest: Harvest
    seed: int
    instructions: list[Row] = field(default_factory=list)
    """Instructions kept so far, with the language they are in; later prompts show some of them."""
    requests: int = 0
    """Requests for new instructions or rows so far: the draw of the next one."""

    @property
    def languages(self) -> list[str]:
        """The languages to make rows in, in turn: those asked for that have seeds."""
        wanted = ("en", "zh") if self.config.language == "both" else (self.config.language,)
        return [language for language in wanted if any(seed.language == language for seed in self.seeds)]

    def prompts(self, language: str) -> Prompts:
        return Prompts(language, self.config.teacher)

    def draw_examples(self, language: str, number: int) -> list[Row]:
        """``shown`` tasks for request ``number``: of the people's three in four at least, the rest made before."""
        choose = random.Random(of_value([self.seed, "examples", number]))
        made = [row for row in self.instructions if row.language == language]
        ours = [flat(seed) for seed in self.seeds if seed.language == language]
        from_made = min(len(made), self.config.shown // 4)
        from_ours = min(len(ours), self.config.shown - from_made)
        shown = choose.sample(ours, from_ours) + choose.sample(made, from_made)
        choose.shuffle(shown)
        return shown

    def draw_seeds(self, language: str, what: str, count: int, classification: bool | None = None) -> list[Seed]:
        """``count`` seed tasks of one kind, the same ones for the same ``what``."""
        fit = [s for s in self.seeds if s.language == language and classification in (None, bool(s.is_classification))]
        return random.Random(of_value([self.seed, "seeds", what])).sample(fit, min(count, len(fit)))

    async def heard(self, ask: Ask, read: Callable[[Answer], T | None]) -> tuple[Answer, T | None]:
        """The answer and what it says; one that says nothing readable is asked for once more."""
        answer = await self.teacher.ask(ask)
        found = read(answer)
        if found is None:
            answer = await self.teacher.ask(replace(ask, draw=ask.draw + AGAIN))
            found = read(answer)
        return answer, found

    async def asked(
        self, wanted: int, ask_of: Callable[[Prompts, list[Row], int], Ask], read: Callable[[Answer], T | None]
    ) -> AsyncGenerator[tuple[str, Answer, T | None], None]:
        """(language, answer, what it says) of as many new requests as ``wanted`` new tasks need, by what came so far.

        No more are sent than that: what is dropped is made up for by the next call, not by asking on and on beforehand.
        """
        made = len(self.instructions) / self.requests if self.requests else float(self.config.per_request)
        planned = ceil(wanted / max(made, LEAST_PER_REQUEST))

        def make(place: int) -> tuple[str, Ask] | None:
            if place >= planned:
                return None
            number, language = self.requests, self.languages[self.requests % len(self.languages)]
            self.requests += 1
            return language, ask_of(self.prompts(language), self.draw_examples(language, number), number)

        async def do(item: tuple[str, Ask]) -> tuple[Answer, T | None]:
            return await self.heard(item[1], read)

        async with aclosing(self.over(make, do)) as results:
            async for (language, _), (answer, found) in results:
                yield language, answer, found

    async def over(
        self, make: Callable[[int], T | None], do: Callable[[T], Coroutine[Any, Any, R]]
    ) -> AsyncGenerator[tuple[T, R], None]:
        """``in_order`` with the recipe's lookahead; leave it by ``aclosing``."""
        async with aclosing(in_order(make, do, self.config.teacher.lookahead)) as results:
            async for result in results:
                yield result

    async def each(
        self, items: Sequence[T], do: Callable[[T], Coroutine[Any, Any, R]]
    ) -> AsyncGenerator[tuple[T, R], None]:
        """``over`` for a list."""
        async with aclosing(self.over(lambda n: items[n] if n < len(items) else None, do)) as results:
            async for result in results:
                yield result


def flat(seed: Seed) -> Row:
    """A seed task with its first instance."""
    first = seed.instances[0]
    return Row(seed.instruction, first["input"], first["output"], seed.is_classification, seed.language)


class Patience:
    """Counts answers without fruit; ``Fruitless`` when there were too many in a row."""

    def __init__(self) -> None:
        self._barren = 0

    def count(self, fruits: int) -> None:
        self._barren = 0 if fruits else self._barren + 1
        if self._barren >= FRUITLESS_REQUESTS:
            raise Fruitless
