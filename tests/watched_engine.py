"""An engine of the tiny model whose forward passes are counted: what a test says in steps holds on any machine."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from easyllm.serve.contract import Sampling, Token
from easyllm.serve.engines.embedded import ContinuousBatching
from easyllm.serve.limits import Limits

ENDS = [0]


@dataclass
class Watched:
    """What its forward passes read, and who had which tokens when."""

    engine: ContinuousBatching
    read: list[int] = field(default_factory=list)
    """Tokens of each forward pass."""
    told: list[dict[int, int]] = field(default_factory=list)
    """Before each pass: tokens answered so far, by request in order of arrival."""

    def note(self, module: Any, given: Any, named: dict[str, Any]) -> None:
        self.read.append(named["input_ids"].shape[-1])
        slots = list(self.engine._sampler.slots.items())
        self.told.append({number: len(slot.tokens) for number, slot in slots})

    def say(
        self, ids: list[int], count: int = 8, asked: Sampling | None = None, adapter: str | None = None
    ) -> list[Token]:
        """A whole answer; ``read`` is then of this answer alone."""
        self.read.clear()
        return asyncio.run(answer(self.engine, ids, count, asked or Sampling(likeliest=3), adapter))

    def forget(self) -> None:
        """Count from here on."""
        self.read.clear()
        self.told.clear()

    def passes_until_first_token(self, place: int) -> int:
        """Forward passes from a request's arrival to its first token; 0 is the first request since ``forget``."""
        number = min(number for told in self.told for number in told) + place
        seen = [told[number] for told in self.told if number in told]
        return next((place for place, tokens in enumerate(seen) if tokens), len(seen))


async def answer(
    engine: ContinuousBatching, ids: list[int], count: int, asked: Sampling, adapter: str | None = None
) -> list[Token]:
    return [token async for token in engine.generate(ids, count, asked, adapter)]


@contextmanager
def watched(model: Any, limits: Limits, **settings: Any) -> Iterator[Watched]:
    """An engine that is stopped at the end."""
    found = Watched(ContinuousBatching(model, ENDS, limits, **settings))
    hook = model.register_forward_pre_hook(found.note, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()
        found.engine.stop()


@contextmanager
def failing(model: Any, passes: int) -> Iterator[list[int]]:
    """The model's next so many forward passes raise, as they do when a device is lost; the list counts them."""
    failed: list[int] = []

    def fail(module: Any, given: Any) -> None:
        if len(failed) < passes:
            failed.append(1)
            raise RuntimeError("the device is lost")

    hook = model.register_forward_pre_hook(fail)
    try:
        yield failed
    finally:
        hook.remove()


def becomes(true: Callable[[], bool], within: float = 60.0) -> bool:
    """Whether ``true()`` comes about within so many seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return False


def prompt_of(seed: int, tokens: int) -> list[int]:
    """So many random ids, no special one among them."""
    return torch.randint(3, 300, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()
