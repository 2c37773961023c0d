"""The budget: a request leaves only if, at its worst and with all that is under way at theirs, no limit is passed."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from easyllm.instruct.ask import Ask, BudgetSpent
from easyllm.instruct.config import Budget, Price
from easyllm.instruct.teacher.ledger import Ledger, Worst

TOKENS_PER_MESSAGE = 16
"""More than any chat template puts around a message."""
TOKENS_PER_REQUEST = 64
"""More than any puts before the first."""


def worst_of(ask: Ask, body: dict[str, Any], price: Price | None) -> Worst:
    """Of a request with this body. No tokenizer in use makes more tokens than there are UTF-8 bytes."""
    texts = [message["content"] for message in body["messages"]]
    if "response_format" in body:
        texts.append(json.dumps(body["response_format"]))  # endpoints read the schema as a part of the prompt
    prompt = sum(len(text.encode()) + TOKENS_PER_MESSAGE for text in texts) + TOKENS_PER_REQUEST
    dearest = max(price.prompt, price.cached_prompt or 0) if price else 0.0
    money = (prompt * dearest + ask.max_tokens * price.completion) / 1e6 if price else 0.0
    return Worst(prompt, ask.max_tokens, money)


@dataclass(frozen=True)
class _Limit:
    name: str
    most: float
    spent: float
    """Known, and at the worst where it is not known."""
    reserved: float
    asked: float


class Purse:
    """What may still be spent: the limits, less the ledger's totals and its requests under way at their worst."""

    def __init__(self, budget: Budget, ledger: Ledger) -> None:
        self._budget, self._ledger = budget, ledger
        self._returned = asyncio.Condition()
        self._over: _Limit | None = None

    async def send(self, purpose: str, key: str, worst: Worst) -> int:
        """The request's number in the ledger, once it fits; where others must come back first, they are awaited.

        Raises BudgetSpent when it cannot fit any more. From then on nothing is sent, though something smaller might
        fit: a run stops in one place.
        """
        async with self._returned:
            while True:
                limits = self._limits(worst)
                over = [limit for limit in limits if limit.spent + limit.asked > limit.most]
                if over and self._over is None:
                    self._over = over[0]
                    self._returned.notify_all()
                if self._over is not None:
                    raise BudgetSpent(self._over.name, self._over.spent, self._over.most)
                if all(limit.spent + limit.reserved + limit.asked <= limit.most for limit in limits):
                    return self._ledger.sent(purpose, key, worst)
                await self._returned.wait()

    async def settled(self) -> None:
        """The ledger has heard of a request: whoever waits for it may look again."""
        async with self._returned:
            self._returned.notify_all()

    def _limits(self, worst: Worst) -> list[_Limit]:
        spent, under_way = self._ledger.totals(), self._ledger.under_way()
        tokens, money = spent.tokens + spent.unknown_tokens, spent.money + spent.unknown_money
        limits = (
            ("requests", self._budget.requests, spent.requests, 0, 1),
            ("tokens", self._budget.tokens, tokens, sum(other.tokens for other in under_way), worst.tokens),
            ("money", self._budget.money, money, sum(other.money for other in under_way), worst.money),
        )
        return [_Limit(name, most, *figures) for name, most, *figures in limits if most is not None]
