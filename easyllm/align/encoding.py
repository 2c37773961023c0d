"""Preference rows become token ids, by the same rendering that finetune trains on and serve answers with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyllm.align.preferences import Preference
from easyllm.core.conversations import Conversation
from easyllm.core.errors import refuse
from easyllm.core.examples import IGNORED, encode

Sequence_ = tuple[list[int], list[int]]
"""(ids of the prompt, ids of the answer): the answer begins with its first word and ends with the turn's end."""


@dataclass(frozen=True)
class Encoded:
    """One row as ids. The prompt ends where the model begins to speak."""

    prompt: list[int]
    chosen: list[int] | None
    rejected: list[int] | None
    source: Preference

    @property
    def tokens(self) -> int:
        """Of the prompt with the longer answer."""
        return len(self.prompt) + max(len(self.chosen or []), len(self.rejected or []))

    def answers(self) -> list[tuple[list[int], bool]]:
        """The answers that are there, with whether each was chosen."""
        return [(ids, good) for ids, good in ((self.chosen, True), (self.rejected, False)) if ids is not None]


def encode_rows(tokenizer: Any, rows: Sequence[Preference], stage: str) -> list[Encoded]:
    """Rows in order. Raises UserError TEMPLATE-001 to TEMPLATE-003 where an answer's ids cannot be told exactly."""
    encoded = []
    for row in rows:
        parts = [_answer(tokenizer, row, answer, stage) for answer in (row.chosen, row.rejected) if answer]
        given = iter(parts)
        chosen = next(given)[1] if row.chosen else None
        rejected = next(given)[1] if row.rejected else None
        encoded.append(Encoded(parts[0][0], chosen, rejected, row))
    return encoded


def _answer(tokenizer: Any, row: Preference, answer: Any, stage: str) -> Sequence_:
    """The labels of the last turn are its answer; what stands before them is the prompt."""
    said = Conversation((*row.prompt, *answer), row.file, row.line, row.tools, len(row.prompt))
    # Earlier answers are the prompt's; a template that rewrites them would make an example of each.
    [example] = encode(tokenizer, [said], stage, "last")
    stop = len(example.labels)
    while example.labels[stop - 1] == IGNORED:
        stop -= 1
    start = stop
    while start and example.labels[start - 1] != IGNORED:
        start -= 1
    return example.ids[:start], example.ids[start:stop]


def fitting(rows: Sequence[Encoded], limit: int, too_long: str, stage: str) -> tuple[list[Encoded], list[Encoded]]:
    """(rows that fit ``limit`` tokens, rows that do not). Raises UserError DATA-004 by policy, or if none fit."""
    fit = [row for row in rows if row.tokens <= limit]
    over = [row for row in rows if row.tokens > limit]
    if over and (too_long == "refuse" or not fit):
        raise refuse(
            "DATA-004", stage=stage, key=f"{stage}.sequence_tokens", file=over[0].source.file,
            line=over[0].source.line, count=len(over), rows=len(rows), limit=limit,
            longest=max(row.tokens for row in over), tokens=over[0].tokens,
        )  # fmt: skip
    return fit, over


Fitted = tuple[list[Encoded], list[Encoded]]
"""(rows that are used, rows left out as too long)"""


def audit(train: Fitted, held_out: Fitted, same: int) -> dict[str, Any]:
    """Counts over the rows that will be trained on, and the rows left out for their length."""
    rows, over = train
    chosen = [len(row.chosen) for row in rows if row.chosen]
    rejected = [len(row.rejected) for row in rows if row.rejected]
    return {
        "rows": len(rows),
        "rows_same": same,
        "pairs": sum(row.chosen is not None and row.rejected is not None for row in rows),
        "prompt_tokens": sum(len(row.prompt) for row in rows),
        "chosen_tokens": sum(chosen),
        "rejected_tokens": sum(rejected),
        "chosen_mean_tokens": round(sum(chosen) / len(chosen), 1),
        "rejected_mean_tokens": round(sum(rejected) / len(rejected), 1),
        "longest_tokens": max(row.tokens for row in rows),
        "dropped": _places(over),
        "held_out": {"rows": len(held_out[0]), "dropped": _places(held_out[1])},
    }


def _places(rows: Sequence[Encoded]) -> list[dict[str, Any]]:
    return [{"file": row.source.file.name, "line": row.source.line, "tokens": row.tokens} for row in rows]
