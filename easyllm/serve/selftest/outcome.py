"""What a check comes to: it holds, it is broken, or the server does not offer what it asks for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["holds", "broken", "not offered"]


class Broken(Exception):
    """The server offers it and does something else; the text says what was seen."""


class NotOffered(Exception):
    """The server says plainly that it has no such thing, or shows no sign of it; the text says how."""


@dataclass(frozen=True)
class Outcome:
    """One line of the report."""

    api: str
    name: str
    state: State
    seen: str

    def row(self) -> dict[str, str]:
        return {"api": self.api, "check": self.name, "outcome": self.state, "seen": self.seen}


@dataclass(frozen=True)
class Check:
    """One question to a server."""

    api: Literal["OpenAI", "TGI", "server"]
    name: str
    """English, in documents too; a person reads it through ``term``."""
    ask: Callable[[Any], str]
    """Given the server it returns what was seen, or raises Broken or NotOffered."""
