"""ledger.jsonl: each request as it leaves and what became of it, so that a killed run still knows what it spent."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from easyllm.core.errors import refuse
from easyllm.instruct.ask import Answer
from easyllm.instruct.config import Price
from easyllm.instruct.teacher.journal import STAGE, Journal
from easyllm.instruct.teacher.store import Store

PERHAPS_BILLED = ("timeout", "connection", "cut", "malformed")
"""Failures after which the endpoint may have answered all the same: the budget counts them at their worst."""


def cost(price: Price | None, prompt: int, completion: int, cached: int = 0) -> float:
    """Money for so many tokens; 0 without prices."""
    if price is None:
        return 0.0
    cheap = price.prompt if price.cached_prompt is None else price.cached_prompt
    return ((prompt - cached) * price.prompt + cached * cheap + completion * price.completion) / 1e6


@dataclass(frozen=True)
class Worst:
    """The most that one request can cost."""

    prompt: int
    """Tokens."""
    completion: int
    """Tokens."""
    money: float

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion


@dataclass
class Count:
    """What a number of requests came to."""

    requests: int = 0
    """Sent, whatever became of them."""
    answered: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    """By outcome: an HTTP status, timeout, unreachable, connection, cut or malformed."""
    lost: int = 0
    """Sent, and never heard of again: their sender was killed, or interrupted twice."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens."""
    money: float = 0.0
    replayed: int = 0
    """Answers taken from those recorded, in this process; no request was sent for them."""
    unknown_tokens: int = 0
    """The most that lost requests and broken-off answers may have cost beside those counted."""
    unknown_money: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass
class Totals(Count):
    """Over all purposes, and by each."""

    by_purpose: dict[str, Count] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Whole numbers and money, for a manifest or a report."""
        return asdict(self)


@dataclass
class _Sent:
    purpose: str
    key: str
    worst: Worst


class Ledger:
    """Written event by event. Opened, it has accounted for what was under way when its writer was killed."""

    def __init__(self, path: Path, price: Price | None, store: Store) -> None:
        self._journal, self._price = Journal(path), price
        self._totals = Totals()
        self._open: dict[int, _Sent] = {}
        self._number = 0
        billed: set[str] = set()
        for line, row in self._journal.rows():
            try:
                self._heard(row, billed)
            except (KeyError, TypeError, ValueError) as error:
                raise refuse("INSTRUCT-028", stage=STAGE, file=path, line=line) from error
        self._close_open(store, billed)

    def sent(self, purpose: str, key: str, worst: Worst) -> int:
        """Its number. Written before the request leaves: what a kill interrupts is never fewer than was sent."""
        self._number += 1
        self._write(
            {
                "event": "sent", "request": self._number, "key": key, "purpose": purpose,
                "prompt_at_most": worst.prompt, "completion_at_most": worst.completion,
                "money_at_most": worst.money if self._price else None,
            }
        )  # fmt: skip
        return self._number

    def answered(self, number: int, answer: Answer) -> None:
        """Once the answer is kept."""
        tokens = (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
        money = cost(self._price, *tokens) if self._price else None
        self._write(
            {
                "event": "answered", "request": number, "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens, "cached_tokens": answer.cached_tokens, "money": money,
            }
        )  # fmt: skip

    def failed(self, number: int, outcome: str) -> None:
        self._write({"event": "failed", "request": number, "outcome": outcome})

    def lost(self, number: int) -> None:
        """Nobody heard what became of it."""
        self._write({"event": "lost", "request": number})

    def replayed(self, purpose: str) -> None:
        """An answer that was there already; nothing is written, for nothing was sent."""
        for count in self._counts(purpose):
            count.replayed += 1

    def totals(self) -> Totals:
        """Of the whole run, resumed or not. Requests under way count as sent and nothing more."""
        return self._totals

    def under_way(self) -> list[Worst]:
        """What each request that has not come back can cost."""
        return [sent.worst for sent in self._open.values()]

    def close(self) -> None:
        self._journal.close()

    def _write(self, event: dict[str, Any]) -> None:
        self._journal.append([event | {"at": datetime.now(UTC).isoformat(timespec="milliseconds")}])
        self._heard(event, set())

    def _counts(self, purpose: str) -> tuple[Count, Count]:
        return self._totals, self._totals.by_purpose.setdefault(purpose, Count())

    def _heard(self, row: dict[str, Any], billed: set[str]) -> None:
        """Enter an event. What was spent before there were prices is counted at those of today."""
        number = int(row["request"])
        if row["event"] == "sent":
            worst = self._worst(int(row["prompt_at_most"]), int(row["completion_at_most"]), row["money_at_most"])
            self._open[number] = _Sent(str(row["purpose"]), str(row["key"]), worst)
            self._number = max(self._number, number)
            for count in self._counts(row["purpose"]):
                count.requests += 1
            return
        sent = self._open.pop(number)
        if row["event"] == "answered":
            billed.add(sent.key)
        for count in self._counts(sent.purpose):
            if row["event"] == "answered":
                self._paid(count, row)
            elif row["event"] == "lost":
                count.lost += 1
                _unknown(count, sent.worst)
            else:
                outcome = str(row["outcome"])
                count.failed[outcome] = count.failed.get(outcome, 0) + 1
                if outcome in PERHAPS_BILLED:
                    _unknown(count, sent.worst)

    def _worst(self, prompt: int, completion: int, money: float | None) -> Worst:
        return Worst(prompt, completion, cost(self._price, prompt, completion) if money is None else float(money))

    def _paid(self, count: Count, row: dict[str, Any]) -> None:
        prompt, completion, cached = (int(row[f"{name}_tokens"]) for name in ("prompt", "completion", "cached"))
        count.answered += 1
        count.prompt_tokens += prompt
        count.completion_tokens += completion
        count.cached_tokens += cached
        money = row["money"]
        count.money += cost(self._price, prompt, completion, cached) if money is None else float(money)

    def _close_open(self, store: Store, billed: set[str]) -> None:
        """A kill between the answer and its line here: the answer is there. Otherwise the request is lost."""
        last = {sent.key: number for number, sent in self._open.items()}
        for number, sent in list(self._open.items()):
            answer = store.own.get(sent.key)
            if answer is not None and sent.key not in billed and last[sent.key] == number:
                self.answered(number, answer)
            else:
                self.lost(number)


def _unknown(count: Count, worst: Worst) -> None:
    count.unknown_tokens += worst.tokens
    count.unknown_money += worst.money
