"""Examples become batches, and the loss over their labels."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from easyllm.core.examples import IGNORED, Example
from easyllm.core.tuning.head import head_loss, without_head


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded at the right, or end to end in one sequence without padding."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor | None
    """Padding is known by it alone; None where there is no padding."""
    position_ids: torch.Tensor | None = None
    """Of packed examples: they begin anew with each of them."""
    lengths: tuple[int, ...] = ()
    """Of packed examples, in order."""

    @property
    def label_tokens(self) -> int:
        """Those the loss stands on: nothing predicts the first token of an example."""
        return int((self.labels[:, 1:] != IGNORED).sum())

    @property
    def fed(self) -> dict[str, Any]:
        """What the model is called with. A packed batch needs ``core.tuning.packed`` in the model."""
        if self.lengths:
            return {"input_ids": self.input_ids, "position_ids": self.position_ids, "segment_lengths": self.lengths}
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}

    def to(self, device: torch.device) -> "Batch":
        def moved(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values.to(device)

        ids, labels = self.input_ids.to(device), self.labels.to(device)
        return Batch(ids, labels, moved(self.attention_mask), moved(self.position_ids), self.lengths)


def pad(examples: Sequence[Example], pad_id: int) -> Batch:
    """One batch, each tensor [examples, longest]."""
    longest = max(len(example.ids) for example in examples)

    def row(values: list[int], filler: int) -> list[int]:
        return values + [filler] * (longest - len(values))

    return Batch(
        input_ids=torch.tensor([row(e.ids, pad_id) for e in examples]),
        labels=torch.tensor([row(e.labels, IGNORED) for e in examples]),
        attention_mask=torch.tensor([row([1] * len(e.ids), 0) for e in examples]),
    )


def pack(examples: Sequence[Example]) -> Batch:
    """One batch, each tensor [1, all tokens]; no example's last token is trained to predict the next one's first."""
    return Batch(
        input_ids=torch.tensor([[number for e in examples for number in e.ids]]),
        labels=torch.tensor([[label for e in examples for label in (IGNORED, *e.labels[1:])]]),
        attention_mask=None,
        position_ids=torch.tensor([[at for e in examples for at in range(len(e.ids))]]),
        lengths=tuple(len(e.ids) for e in examples),
    )


def padding_id(tokenizer: Any) -> int:
    """Any id will do, the mask hides it: the tokenizer's own, else its end, else 0."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(number for number in ids if number is not None)


def answer_loss(model: Any, batch: Batch, head: torch.nn.Linear | None = None) -> torch.Tensor:
    """Summed cross-entropy in nats over the batch's label tokens, in fp32.

    Logits are made only where some row of the batch has a label, when the architecture can do so: the head is
    a fifth of a small model's work. With ``head``, the model's output layer, they are made a few rows at a time
    and never stand whole; ``core.tuning.head.separate_head`` says which models give the same loss that way.
    """
    targets = batch.labels[:, 1:]
    at = (targets != IGNORED).any(dim=0).nonzero().flatten()
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    few = {"logits_to_keep": at} if "logits_to_keep" in inspect.signature(inner.forward).parameters else {}
    with without_head(head):
        logits = model(**batch.fed, use_cache=False, **few).logits
    if not few:
        logits = logits[:, at]
    chosen = targets[:, at]
    if head is not None:
        there = chosen != IGNORED
        return head_loss(logits[there], head, chosen[there])
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), chosen.flatten(), ignore_index=IGNORED, reduction="sum"
    )
