"""How likely a model holds given answers: the ground of the reference, of the table, and of nothing else."""

from collections.abc import Sequence
from typing import Any

import torch

from easyllm.align.encoding import Encoded
from easyllm.core.batches import pad
from easyllm.core.conversations import Conversation
from easyllm.core.examples import IGNORED, Example
from easyllm.core.progress import progress


def log_probs(model: Any, asked: Sequence[tuple[list[int], list[int]]], micro_samples: int, pad_id: int) -> list[float]:
    """For each (prompt, answer) the summed log-probability of the answer, in nats; the model in evaluation mode."""
    order = sorted(range(len(asked)), key=lambda at: sum(map(len, asked[at])))
    found = [0.0] * len(asked)
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad(), progress("measuring", len(asked), "answers") as bar:
        for start in range(0, len(order), micro_samples):
            chunk = order[start : start + micro_samples]
            batch = pad([_example(*asked[at]) for at in chunk], pad_id).to(device)
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
            targets = batch.labels[:, 1:]
            mask = targets != IGNORED
            losses = torch.nn.functional.cross_entropy(logits[:, :-1][mask].float(), targets[mask], reduction="none")
            sums = torch.zeros(len(chunk), device=device).index_add_(0, mask.nonzero()[:, 0], -losses)
            for at, value in zip(chunk, sums.tolist(), strict=True):
                found[at] = value
            bar.advance(len(chunk))
    model.train(was_training)
    return found


def _example(prompt: list[int], answer: list[int]) -> Example:
    return Example([*prompt, *answer], [IGNORED] * len(prompt) + answer, _NOWHERE)


_NOWHERE: Conversation = None  # type: ignore[assignment]  # only the ids of such an example are looked at


Measured = list[dict[bool, float]]
"""For each row the log-probability of its chosen answer (True) and its rejected one (False), where it has them."""


def measure(model: Any, rows: Sequence[Encoded], micro_samples: int, pad_id: int) -> Measured:
    """What ``model`` holds of every answer of ``rows``."""
    asked = [(row.prompt, ids, at, good) for at, row in enumerate(rows) for ids, good in row.answers()]
    values = log_probs(model, [(prompt, ids) for prompt, ids, _, _ in asked], micro_samples, pad_id)
    found: Measured = [{} for _ in rows]
    for (_, _, at, good), value in zip(asked, values, strict=True):
        found[at][good] = value
    return found
