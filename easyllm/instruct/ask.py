"""What is asked of a teacher and what comes back: the same words are the same request, whenever they are asked."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from easyllm.core.conversations import Message
from easyllm.core.digest import of_value


@dataclass(frozen=True)
class Ask:
    """One request, as the pipelines mean it and independent of how it is sent."""

    purpose: str
    """instructions, kind, instances, rows, evolve, answer or score; counted in the ledger by it."""
    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None
    """JSON schema that the answer should follow; None: plain text is wanted."""
    form: str = ""
    """The same said in words: joined to the last message, after a blank line, where no schema is sent."""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1024
    draw: int = 0
    """Tells two requests of the same words apart."""

    def key(self, model: str) -> str:
        """Of all that decides the answer; the endpoint's address is no part of it."""
        said = [list(self.messages), self.schema, self.form, self.temperature, self.top_p, self.max_tokens]
        return of_value([model, self.purpose, said, self.draw])[:40]


@dataclass(frozen=True)
class Answer:
    """What the teacher said to one Ask, as it is kept in answers.jsonl."""

    key: str
    text: str
    finish_reason: str
    """stop, length, content_filter ..., as the endpoint names it."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    structured: bool = False
    """Whether the schema was sent with the request."""
    replayed: bool = field(default=False, compare=False)
    """It was paid for earlier: no request was sent this time."""

    @property
    def cut(self) -> bool:
        return self.finish_reason == "length"


class Asked(Protocol):
    """A teacher as the pipelines see it."""

    async def ask(self, ask: Ask) -> Answer:
        """Raises BudgetSpent where sending it could pass the budget, UserError or StageFailed where none can be had."""
        ...


class BudgetSpent(Exception):
    """The next request could pass the budget: ``what`` of ``limit`` is spent."""

    def __init__(self, what: str, spent: float, limit: float) -> None:
        super().__init__(f"{what}: {spent} of {limit}")
        self.what, self.spent, self.limit = what, spent, limit
