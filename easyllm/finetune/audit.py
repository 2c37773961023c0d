"""What the labels stand on, counted before anything is trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from easyllm.core.errors import refuse
from easyllm.core.examples import IGNORED, Example

BINS = 10


@dataclass(frozen=True)
class Fitted:
    """Examples that are used, and what became of the others."""

    kept: list[Example]
    left_out: list[Example]
    """Too long, or without a label once they were cut."""
    cut: int = 0
    """How many of ``kept`` lost their end."""


@dataclass(frozen=True)
class Counted:
    """Rows of one file."""

    source: str
    weight: float
    rows: int
    tokens: int
    label_tokens: int


@dataclass(frozen=True)
class Audit:
    """Counts over the examples that will be trained on, and the rows left out for their length."""

    rows: int
    tokens: int
    label_tokens: int
    longest_tokens: int
    rows_without_labels: int
    rows_without_end: int
    """Rows whose last label is not the end of the turn: such a row does not teach the model to stop."""
    dropped: list[dict[str, Any]]
    """Rows left out as too long: {"file", "line", "tokens"}."""
    rows_same: int = 0
    """Rows of the data whose words stand in an earlier row too, those held out or left out among them."""
    rows_cut: int = 0
    """Rows of which only the beginning is trained on."""
    rows_parted: int = 0
    """Rows that are several examples, because the template rewrites earlier answers."""
    sources: list[Counted] = field(default_factory=list)
    lengths: list[dict[str, int]] = field(default_factory=list)
    """A histogram: {"from", "to", "rows"}, both ends inside."""
    held_out: dict[str, Any] = field(default_factory=dict)
    """{"rows", "cut", "dropped"} of the rows that are measured."""

    @property
    def share(self) -> float:
        """Label tokens among all tokens."""
        return self.label_tokens / self.tokens

    def as_record(self) -> dict[str, Any]:
        return asdict(self) | {"share": self.share}


def fitting(examples: Sequence[Example], limit: int, too_long: str) -> Fitted:
    """What fits ``limit`` tokens, by the policy. Raises UserError DATA-004 by policy, or if nothing is left."""
    over = [example for example in examples if len(example.ids) > limit]
    if too_long == "truncate":
        shorter = [Example(e.ids[:limit], e.labels[:limit], e.source) for e in examples]
        learnt = [example.label_tokens > 0 for example in shorter]
        kept = [example for example, good in zip(shorter, learnt, strict=True) if good]
        left_out = [example for example, good in zip(examples, learnt, strict=True) if not good]
        cut = len(over) - sum(len(example.ids) > limit for example in left_out)
    else:
        kept, left_out, cut = [example for example in examples if len(example.ids) <= limit], over, 0
    if over and (too_long == "refuse" or not kept):
        first, longest = over[0], max(len(example.ids) for example in over)
        raise refuse(
            "DATA-004", stage="finetune", key="finetune.sequence_tokens", file=first.source.file,
            line=first.source.line, count=len(over), rows=len(examples), limit=limit, longest=longest,
            tokens=len(first.ids),
        )  # fmt: skip
    return Fitted(kept, left_out, cut)


def audit(fitted: Fitted, end: int, held_out: Fitted | None = None, same: int = 0) -> Audit:
    """Count labels; ``end`` is the id that closes an answer, ``same`` what ``split`` counted."""
    examples = fitted.kept
    last = [next((label for label in reversed(e.labels) if label != IGNORED), None) for e in examples]
    return Audit(
        rows=len(examples),
        tokens=sum(len(e.ids) for e in examples),
        label_tokens=sum(e.label_tokens for e in examples),
        longest_tokens=max(len(e.ids) for e in examples),
        rows_without_labels=sum(label is None for label in last),
        rows_without_end=sum(not _closed(e.labels, end) for e in examples),
        dropped=_places(fitted.left_out),
        rows_same=same,
        rows_cut=fitted.cut,
        rows_parted=_parted([*examples, *fitted.left_out]),
        sources=_sources(examples),
        lengths=histogram([len(e.ids) for e in examples]),
        held_out={
            "rows": len(held_out.kept), "cut": held_out.cut, "dropped": _places(held_out.left_out),
        } if held_out else {},
    )  # fmt: skip


def _closed(labels: Sequence[int], end: int) -> bool:
    """Whether the last answer's labels hold the end of its turn; with labels on everything, text may follow it."""
    last = next((at for at in range(len(labels) - 1, -1, -1) if labels[at] != IGNORED), None)
    return last is not None and end in labels[max(0, last - 2) : last + 1]


def _places(examples: Sequence[Example]) -> list[dict[str, Any]]:
    return [{"file": e.source.file.name, "line": e.source.line, "tokens": len(e.ids)} for e in examples]


def _parted(examples: Sequence[Example]) -> int:
    seen: dict[int, int] = {}
    for example in examples:
        seen[id(example.source)] = seen.get(id(example.source), 0) + 1
    return sum(count > 1 for count in seen.values())


def _sources(examples: Sequence[Example]) -> list[Counted]:
    found = []
    for share in dict.fromkeys(example.source.share for example in examples):
        of_it = [example for example in examples if example.source.share == share]
        tokens, labels = sum(len(e.ids) for e in of_it), sum(e.label_tokens for e in of_it)
        found.append(Counted(share.entry, share.weight, len(of_it), tokens, labels))
    return found


def histogram(lengths: Sequence[int]) -> list[dict[str, int]]:
    """Rows by length in up to BINS steps of equal width."""
    low, high = min(lengths), max(lengths)
    width = (high - low) // BINS + 1
    bins = [{"from": at, "to": at + width - 1, "rows": 0} for at in range(low, high + 1, width)]
    for length in lengths:
        bins[(length - low) // width]["rows"] += 1
    return bins
