"""That the merged model says what base and adapters say together: logits and greedy answers, side by side."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from easyllm.core.errors import failed
from easyllm.core.memory import give_memory_back
from easyllm.core.parity import Parity, compare
from easyllm.core.tuning.adapted import load_adapted
from easyllm.merge.probes import answers, logits, prompts
from easyllm.merge.sources import Source

TOLERANCE = 5e-3
"""Merging reorders sums: fp32 logits of a 135M model moved by 4e-4 here, where the adapter had moved them by 36."""


@dataclass(frozen=True)
class Said:
    """What a model answered to the probes."""

    logits: list[torch.Tensor]
    answers: list[list[int]]


def ask(model: Any, tokenizer: Any) -> Said:
    return Said(logits(model, prompts(tokenizer)), answers(model, tokenizer))


def computes_exactly(quantisation: Mapping[str, Any] | None) -> bool:
    """Whether base and adapters, stored as they were in training, compute in fp32, as the merged model does.

    A base in 8 bits rounds what goes into its layers too, and one that computes in bf16 all that comes out: the merged
    model does neither. On the real 135M that moves logits by more than any bound that would still tell something.
    """
    return quantisation is None or (quantisation["bits"] == 4 and quantisation["compute_dtype"] == "float32")


def ask_pair(found: Sequence[Source], directory: Path, tokenizer: Any, dequantised: bool = False) -> tuple[Said, Said]:
    """(the base, the base with its adapters), as they were in training; nothing of them stays in memory.

    ``dequantised``: computing in fp32 with what the bits of the base stand for. PEFT itself adds several adapters up
    here, layer by layer as they compute: another way than the merge's own.
    """
    model = load_adapted(found[0].path, found[0].records, directory, torch.float32, dequantised=dequantised)
    names = ["default", *[f"adapter_{index}" for index in range(1, len(found))]]
    for name, source in zip(names[1:], found[1:], strict=True):
        model.load_adapter(str(source.path), adapter_name=name)
    model.base_model.set_adapter(names)
    model.eval()
    for layer in (module for module in model.modules() if isinstance(module, LoraLayer)):
        for name, source in zip(names, found, strict=True):
            if name in layer.scaling:
                layer.scaling[name] *= source.weight
    with model.disable_adapter():
        before = Said(logits(model, prompts(tokenizer)), [])
    pair = ask(model, tokenizer)
    del model
    gc.collect()
    give_memory_back()
    return before, pair


def require_change(before: Said, pair: Said, base: str) -> None:
    """StageFailed when the adapter changes nothing: such a merge would pass its parity and be worthless."""
    if all(torch.equal(a, b) for a, b in zip(before.logits, pair.logits, strict=True)):
        raise failed("MERGE-001", stage="merge", base=base)


@dataclass(frozen=True)
class Proof:
    """What the models said: the base, base and adapters, the merged weights in fp32, and those that were stored."""

    before: Said
    pair: Said
    """Computing in fp32, as the merged weights do; the base before it too."""
    merged: Said
    stored: Said
    trained: Said
    """Base and adapters with the bits of the base and what they compute in; the pair itself where that is fp32."""
    tolerance: float = TOLERANCE

    def require(self) -> Parity:
        """Merged against base with adapter; StageFailed PARITY-001 or MERGE-016 where they differ."""
        parity = compare(
            self.merged.logits, self.pair.logits, ("merged", "base with adapter"), self.tolerance
        ).require()
        for number, (ours, theirs) in enumerate(zip(self.merged.answers, self.pair.answers, strict=True), 1):
            if ours != theirs:
                at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True), 1) if a != b)
                raise failed("MERGE-016", stage="merge", number=number, token=at)
        return parity

    def greedy(self) -> dict[str, Any]:
        """Share of the greedy tokens that are those of base and adapters, and how many were compared."""
        return {
            "conversations": len(self.pair.answers),
            "tokens": sum(len(row) for row in self.pair.answers),
            "merged": _agreement(self.merged.answers, self.pair.answers),
            "stored": _agreement(self.stored.answers, self.pair.answers),
            "trained": _agreement(self.trained.answers, self.pair.answers),
        }

    def rounding(self) -> dict[str, Any]:
        """How far the base's precision moved the merged weights' logits: it reports, and stops nothing."""
        return self._apart(self.stored, ("stored", "merged in fp32"))

    def training_rounding(self) -> dict[str, Any]:
        """How far training's own arithmetic, in 8 bits or bf16, stood from the merged weights; stops nothing."""
        return self._apart(self.trained, ("as it computed in training", "merged in fp32"))

    def _apart(self, said: Said, names: tuple[str, str]) -> dict[str, Any]:
        found = compare(said.logits, self.merged.logits, names, self.tolerance)
        kept = ("left", "right", "positions", "max_logit_difference", "top1_agreement", "largest_logit")
        return {name: value for name, value in found.as_record().items() if name in kept}


def _agreement(left: list[list[int]], right: list[list[int]]) -> float:
    same = [a == b for x, y in zip(left, right, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(same) / len(same) if same else 1.0
