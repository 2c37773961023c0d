"""What the labels stand on, counted before anything is trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from easyllm.core.errors import refuse
from easyllm.core.examples import IGNORED, Example


@dataclass(frozen=True)
class Audit:
    """Counts over the rows that will be trained on, and the rows left out for their length."""

    rows: int
    tokens: int
    label_tokens: int
    longest_tokens: int
    rows_without_labels: int
    rows_without_end: int
    """Rows whose last label is not the end of the turn: such a model would not learn to stop."""
    dropped: list[dict[str, Any]]
    """Rows left out as too long: {"file", "line", "tokens"}."""

    @property
    def share(self) -> float:
        """Label tokens among all tokens."""
        return self.label_tokens / self.tokens

    def as_record(self) -> dict[str, Any]:
        return asdict(self) | {"share": self.share}


def fitting(examples: Sequence[Example], limit: int, too_long: str) -> tuple[list[Example], list[Example]]:
    """(rows that fit ``limit`` tokens, rows that do not). Raises UserError DATA-004 by policy, or if none fit."""
    fit = [example for example in examples if len(example.ids) <= limit]
    over = [example for example in examples if len(example.ids) > limit]
    if over and (too_long == "refuse" or not fit):
        first, longest = over[0], max(len(example.ids) for example in over)
        raise refuse(
            "DATA-004", stage="finetune", key="finetune.sequence_tokens", file=first.source.file,
            line=first.source.line, count=len(over), rows=len(examples), limit=limit, longest=longest,
            tokens=len(first.ids),
        )  # fmt: skip
    return fit, over


def audit(examples: Sequence[Example], dropped: Sequence[Example], end: int) -> Audit:
    """Count labels; ``end`` is the id that closes an answer."""
    last = [next((label for label in reversed(e.labels) if label != IGNORED), None) for e in examples]
    return Audit(
        rows=len(examples),
        tokens=sum(len(e.ids) for e in examples),
        label_tokens=sum(e.label_tokens for e in examples),
        longest_tokens=max(len(e.ids) for e in examples),
        rows_without_labels=sum(label is None for label in last),
        rows_without_end=sum(label != end for label in last),
        dropped=[{"file": e.source.file.name, "line": e.source.line, "tokens": len(e.ids)} for e in dropped],
    )
