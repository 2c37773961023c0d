"""What one model scores: loss on held-out answers, and its own greedy answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyllm.core.examples import Example
from easyllm.core.progress import Progress
from easyllm.evaluate.speakers import Speaker


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


def held_out_loss(speaker: Speaker, examples: Sequence[Example], bar: Progress) -> Loss:
    """Loss of ``speaker``'s model on the answers of ``examples``."""
    labels = sum(example.label_tokens for example in examples)
    return Loss(len(examples), labels, speaker.loss(examples, bar) / labels)


def answers(
    speaker: Speaker, tokenizer: Any, prompts: list[list[int]], longest: int, bar: Progress
) -> tuple[list[list[int]], list[str]]:
    """(token ids without the end token, text) of the greedy answer to each of ``prompts``, in the order asked."""
    ids = speaker.say(prompts, longest, bar)
    # The length limit may cut a character in two.
    return ids, [tokenizer.decode(row, skip_special_tokens=True).rstrip("\ufffd").strip() for row in ids]
