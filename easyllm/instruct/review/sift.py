"""Which rows a reviewer wants to see: by state, finding, language, origin, score, length and words."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from easyllm.instruct.review.decisions import STATES, Standing


@dataclass(frozen=True)
class Wanted:
    """What must hold of a row; what is empty or None is not asked. Made from the page's query string."""

    ALL: ClassVar[tuple[str, ...]] = (*STATES, "not_mine", "edited")
    """The states that can be asked for: not_mine is what the author has not decided on."""

    state: str = ""
    reason: str = ""
    language: str = ""
    origin: str = ""
    least_score: int | None = None
    most_score: int | None = None
    least_length: int | None = None
    most_length: int | None = None
    search: str = ""
    """Words that must stand in the row or in its edits, whatever their case."""

    def numbers(self, found: Sequence[Standing], author: str) -> list[int]:
        """Of the rows that are wanted."""
        words = self.search.casefold()
        return [
            number
            for number, one in enumerate(found)
            if self._state(one, author) and self._made(one) and self._between(one) and _says(one, words)
        ]

    def _state(self, one: Standing, author: str) -> bool:
        if self.state == "not_mine":
            return author not in one.by
        if self.state == "edited":
            return any(decision.verdict == "edit" for decision in one.by.values())
        return not self.state or one.state == self.state

    def _made(self, one: Standing) -> bool:
        row = one.source
        return (
            (not self.language or row.language == self.language)
            and (not self.origin or row.origin == self.origin)
            and (not self.reason or any(finding.reason == self.reason for finding in row.findings))
        )

    def _between(self, one: Standing) -> bool:
        """A row without a score is in no range of scores."""
        return _within(one.source.score, self.least_score, self.most_score) and _within(
            length(one), self.least_length, self.most_length
        )


def length(one: Standing) -> int:
    """Characters of the row's three texts."""
    return len(one.source.instruction) + len(one.source.input) + len(one.source.output)


def facets(found: Sequence[Standing]) -> dict[str, Any]:
    """What the rows can be asked for, with how many there are: {"reasons": {name: rows}, "languages", ...}."""
    rows = [one.source for one in found]
    return {
        "reasons": dict(Counter(name for row in rows for name in {finding.reason for finding in row.findings})),
        "languages": dict(Counter(row.language for row in rows if row.language)),
        "origins": dict(Counter(row.origin for row in rows)),
        "scores": dict(sorted(Counter(str(row.score) for row in rows if row.score is not None).items())),
        "longest": max(map(length, found)),
    }


def _within(value: int | None, least: int | None, most: int | None) -> bool:
    if least is None and most is None:
        return True
    return value is not None and (least is None or value >= least) and (most is None or value <= most)


def _says(one: Standing, words: str) -> bool:
    return not words or any(
        words in text.casefold()
        for row in (one.source, one.row)
        for text in (row.instruction, row.input, row.output)
    )  # fmt: skip
