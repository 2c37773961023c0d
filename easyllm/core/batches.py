"""Examples become batches, and the loss over their labels."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from easyllm.core.examples import IGNORED, Example


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
