"""Conversations become token ids whose labels stand on the answers only.

Labels are found through the template itself: the ids before an answer must be the beginning of the ids with
it. They are never found by comparing ids with the padding id, which is the end of a turn in many models.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jinja2

from easyllm.core.chat import render, turn_end_id
from easyllm.core.conversations import Conversation
from easyllm.core.errors import UserError, refuse

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """One conversation as ids, with a label (the id itself) on every answer token and IGNORED elsewhere."""

    ids: list[int]
    labels: list[int]
    source: Conversation

    @property
    def label_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def encode(tokenizer: Any, conversations: Iterable[Conversation], stage: str) -> list[Example]:
    """Examples in order. Raises UserError TEMPLATE-001 to TEMPLATE-003 where labels cannot be placed exactly."""
    end = turn_end_id(tokenizer)
    if end is None:
        raise refuse("TEMPLATE-003", stage=stage)
    return [_encode_one(tokenizer, conversation, end, stage) for conversation in conversations]


def _encode_one(tokenizer: Any, row: Conversation, end: int, stage: str) -> Example:
    messages = list(row.messages)
    whole = _render(tokenizer, messages, False, row, stage)
    labels = [IGNORED] * len(whole)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:turn], True, row, stage)
        after = _render(tokenizer, messages[: turn + 1], False, row, stage)
        if after[: len(before)] != before or whole[: len(after)] != after:
            raise refuse("TEMPLATE-002", stage=stage, file=row.file, line=row.line, turn=turn + 1)
        # The template may add a newline after the turn's end; the model stops before it and need not learn it.
        stop = max((at for at in range(len(before), len(after)) if after[at] == end), default=None)
        if stop is None:
            raise refuse("TEMPLATE-003", stage=stage)
        labels[len(before) : stop + 1] = whole[len(before) : stop + 1]
    return Example(whole, labels, row)


def _render(tokenizer: Any, messages: list[Any], prompt: bool, row: Conversation, stage: str) -> list[int]:
    try:
        return render(tokenizer, messages, prompt)
    except jinja2.TemplateError as error:
        raise _template_refuses(error, row, stage) from error


def _template_refuses(error: Exception, row: Conversation, stage: str) -> UserError:
    return refuse("TEMPLATE-001", stage=stage, file=row.file, line=row.line, reason=str(error))
