"""Whether rows may lie end to end, and whether the output layer may be computed apart: tried on the model itself.

No list of architectures says so: the shortest and the longest rows go through the model alone and together, and
what comes out must be the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from easyllm.core.artifact import Decision
from easyllm.core.batches import Batch, answer_loss, pack, pad
from easyllm.core.errors import refuse
from easyllm.core.examples import Example
from easyllm.core.messages import say
from easyllm.core.tuning.head import separate_head, without_head
from easyllm.core.tuning.lean import lean
from easyllm.core.tuning.packed import can_attend, packed_attention

EXACT, COARSE = 1e-4, 3e-2
"""Largest difference relative to the largest value: in fp32, and where half precision or quantisation rounds."""


@dataclass(frozen=True)
class Layout:
    """How the rows of a pass lie, and how their loss is made."""

    packed: bool
    head: torch.nn.Linear | None
    """For ``answer_loss``; None: the model makes its own logits."""
    pad_id: int
    lean: bool
    """Whether the layers are computed with less work and memory, by ``core.tuning.lean``."""
    decision: Decision

    def batch(self, examples: Sequence[Example]) -> Batch:
        return pack(examples) if self.packed else pad(examples, self.pad_id)

    @contextmanager
    def attention(self, model: Any) -> Iterator[None]:
        """Inside, ``model`` attends and computes as this layout needs; it must hold while gradients are made too."""
        with ExitStack() as held:
            if self.packed:
                held.enter_context(packed_attention(model))
            if self.lean:
                held.enter_context(lean(model))
            yield


def choose(
    model: Any, examples: Sequence[Example], asked: bool | Literal["auto"], pad_id: int, stage: str, plain: bool = False
) -> Layout:
    """The layout for ``model``, still unwrapped. UserError TRAIN-020 where packing is asked for and not exact.

    ``plain``: every layer goes its own way, because its weights are sharded and gathered when it is called.
    """
    with _evaluating(model):
        head = None if plain else _head(model, examples, pad_id)
        if asked is False:
            return Layout(False, head, pad_id, not plain, Decision("packing", False, say("why_in_recipe")))
        difference, reason = _packed_difference(model, examples, pad_id, head)
    exact = difference is not None and difference <= _tolerance(model)
    if not exact and asked is True:
        raise refuse("TRAIN-020", stage=stage, key="finetune.packing", reason=reason)
    return Layout(exact, head, pad_id, not plain, Decision("packing", exact, reason))


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without dropout and gradients; afterwards as before."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _tolerance(model: Any) -> float:
    exact = _inner(model).dtype == torch.float32 and not getattr(_inner(model), "is_quantized", False)
    return EXACT if exact else COARSE


def _head(model: Any, examples: Sequence[Example], pad_id: int) -> torch.nn.Linear | None:
    """The output layer, if computing it apart gives the model's own loss; Gemma 2, which caps its logits, does not."""
    head = separate_head(_inner(model))
    trained = [example for example in examples if example.label_tokens]
    if head is None or not trained:
        return None
    batch = pad([max(trained, key=lambda example: len(example.ids))], pad_id).to(model.device)
    if not batch.label_tokens:
        return None
    own, apart = answer_loss(model, batch).item(), answer_loss(model, batch, head).item()
    return head if abs(own - apart) <= 1e-5 * max(abs(own), 1) or (own != own and apart != apart) else None


def _packed_difference(
    model: Any, examples: Sequence[Example], pad_id: int, head: torch.nn.Linear | None
) -> tuple[float | None, str]:
    """(largest relative difference of three packed rows to the same rows alone, a sentence about it)."""
    architecture = type(_inner(model)).__name__
    if not can_attend(_inner(model)):
        return None, say("why_cannot_pack", architecture=architecture)
    ordered = sorted(examples, key=lambda example: len(example.ids))
    rows = [ordered[0], ordered[-1], ordered[min(1, len(ordered) - 1)]]

    def outcome(batch: Batch) -> torch.Tensor:
        with without_head(head):
            found: torch.Tensor = model(**batch.to(model.device).fed, use_cache=False).logits
        return found.float()

    alone = torch.cat([outcome(pad([row], pad_id)) for row in rows], dim=1)
    try:
        with packed_attention(model):
            together = outcome(pack(rows))
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        # Whatever a model's own code has against it: caps, masks it must have, shapes it does not expect.
        return None, say("why_refuses_packing", architecture=architecture, reason=str(error).partition("\n")[0])
    difference = float((together - alone).abs().max() / alone.abs().max())
    name = "why_packed" if difference <= _tolerance(model) else "why_not_packed"
    return difference, say(name, architecture=architecture, difference=difference)
