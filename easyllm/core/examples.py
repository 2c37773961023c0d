"""Conversations become token ids whose labels stand on the answers only, and the loss over those labels.

Labels are found through the template itself: the ids before an answer must be the beginning of the ids with
it. They are never found by comparing ids with the padding id, which is the end of a turn in many models.
"""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import torch

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


@dataclass(frozen=True)
class Batch:
    """Examples of like length side by side, padded at the right; padding is known by ``attention_mask`` alone."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor

    @property
    def label_tokens(self) -> int:
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def pad(examples: Sequence[Example], pad_id: int) -> Batch:
    """One batch, each tensor [examples, longest]."""
    longest = max(len(example.ids) for example in examples)

    def row(values: list[int], filler: int) -> list[int]:
        return values + [filler] * (longest - len(values))

    return Batch(
        torch.tensor([row(e.ids, pad_id) for e in examples]),
        torch.tensor([row([1] * len(e.ids), 0) for e in examples]),
        torch.tensor([row(e.labels, IGNORED) for e in examples]),
    )


def padding_id(tokenizer: Any) -> int:
    """Any id will do, the mask hides it: the tokenizer's own, else its end, else 0."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(number for number in ids if number is not None)


def answer_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Summed cross-entropy in nats over the batch's label tokens, in fp32.

    Logits are made only where some row of the batch has a label, when the architecture can do so: the head is
    a fifth of a small model's work.
    """
    targets = batch.labels[:, 1:]
    at = (targets != IGNORED).any(dim=0).nonzero().flatten()
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    few = {"logits_to_keep": at} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **few).logits
    if not few:
        logits = logits[:, at]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets[:, at].flatten(), ignore_index=IGNORED, reduction="sum"
    )
