"""What one model scores: loss on held-out answers, and its own greedy answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig

from easyllm.core.batches import answer_loss, pad, padding_id
from easyllm.core.chat import end_token_ids, render
from easyllm.core.conversations import Message
from easyllm.core.examples import Example
from easyllm.core.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Loss:
    """Over all label tokens of all rows."""

    rows: int
    label_tokens: int
    loss: float
    """Mean cross-entropy per label token, in nats."""

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def as_record(self) -> dict[str, Any]:
        return vars(self) | {"perplexity": self.perplexity}


def held_out_loss(model: Any, tokenizer: Any, examples: Sequence[Example], at_once: int, bar: Progress) -> Loss:
    """Loss of ``model`` on the answers of ``examples``."""
    total, labels = 0.0, 0
    with torch.inference_mode():
        for rows in _grouped(examples, at_once, lambda example: len(example.ids)):
            batch = pad([examples[row] for row in rows], padding_id(tokenizer)).to(model.device)
            total += answer_loss(model, batch).item()
            labels += batch.label_tokens
            bar.advance(len(rows))
    return Loss(len(examples), labels, total / labels)


def answers(
    model: Any, tokenizer: Any, conversations: Sequence[list[Message]], longest: int, at_once: int, bar: Progress
) -> list[str]:
    """The greedy answer to each conversation, without its end token, in the order asked."""
    asked = [render(tokenizer, messages, True) for messages in conversations]
    ends = end_token_ids(tokenizer, model.generation_config)
    filler = padding_id(tokenizer)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=longest, eos_token_id=ends, pad_token_id=filler
    )  # fmt: skip
    found = [""] * len(asked)
    for rows in _grouped(asked, at_once, len):
        width = max(len(asked[row]) for row in rows)
        # At the left, because generation goes on from the last column.
        ids = torch.tensor([[filler] * (width - len(asked[row])) + asked[row] for row in rows])
        mask = torch.tensor([[0] * (width - len(asked[row])) + [1] * len(asked[row]) for row in rows])
        with torch.inference_mode():
            made = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
            )
        for row, tokens in zip(rows, made[:, width:].tolist(), strict=True):
            text = tokenizer.decode(_until(tokens, ends), skip_special_tokens=True)
            found[row] = text.rstrip("\ufffd").strip()  # the length limit may cut a character in two
        bar.advance(len(rows))
    return found


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first end; what follows it in a batch is padding."""
    stop = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]


def _grouped(items: Sequence[T], at_once: int, length: Callable[[T], int]) -> list[list[int]]:
    """Item numbers in groups of like length, so that little is padded."""
    numbers = sorted(range(len(items)), key=lambda number: length(items[number]))
    return [numbers[at : at + at_once] for at in range(0, len(numbers), at_once)]
