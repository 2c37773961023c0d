"""The model that is trained: the base with a fresh adapter, or the base itself."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from easyllm.core.artifact import Decision
from easyllm.core.errors import StageFailed, refuse
from easyllm.core.messages import say
from easyllm.core.models import load_model
from easyllm.core.progress import note
from easyllm.core.tuning import targets, vocabulary
from easyllm.core.tuning.layers import hit
from easyllm.core.tuning.methods import Tuning
from easyllm.core.tuning.quantised import load_base, quantisation_record


@dataclass(frozen=True)
class Tuned:
    """A model of which exactly what requires a gradient is trained, in fp32."""

    model: Any
    kind: Literal["adapter", "model"]
    """What the stage publishes."""
    base: Path
    """The directory it was made from."""
    saved: list[str]
    """Layers that an adapter trains whole and keeps beside itself."""
    decisions: list[Decision]
    records: dict[str, Any]
    """For the manifest: "method", "quantisation", "targets", "vocabulary"."""


def build(
    config: Tuning, directory: Path, dtype: torch.dtype, seed: int, tokens: int | None = None, stage: str = "finetune",
    quiet: bool = False,
) -> Tuned:  # fmt: skip
    """The base in ``directory`` made ready by ``config.method``; the same seed draws the same weights on every rank.

    ``tokens`` is what the tokenizer knows: where the base has fewer rows, it grows. ``quiet``: the layers that were
    chosen have been told before.
    """
    if config.method == "full":
        return _full(directory, seed, tokens)
    return _lora(config, directory, dtype, seed, tokens, stage, quiet)


def _full(directory: Path, seed: int, tokens: int | None) -> Tuned:
    # fp32: a step of 1e-5 is lost in the 8 bits that bf16 has for a weight; autocast computes in less all the same.
    model = load_model(directory, torch.float32)
    torch.manual_seed(seed)
    rows = vocabulary.rows(model)
    decisions = [Decision("weights", "all", say("why_full"))]
    if vocabulary.grow(model, tokens):
        decisions.append(_grown(model, rows))
    model.requires_grad_(True)
    records = _records("full", model, None, None)
    return Tuned(model, "model", directory, [], decisions, records)


def _lora(
    config: Tuning, directory: Path, dtype: torch.dtype, seed: int, tokens: int | None, stage: str, quiet: bool
) -> Tuned:
    """Nothing of ``prepare_model_for_kbit_training`` is needed: it casts every norm and embedding to fp32.

    PEFT freezes the base and keeps the adapter in fp32 by itself.
    """
    asked = [] if config.lora.save_modules == "auto" else config.lora.save_modules
    chosen = targets.choose(directory, config.lora.targets, asked, stage)
    quantisation = quantisation_record(config.method, config.quantisation, dtype)
    base = load_base(directory, dtype, quantisation, stage)
    torch.manual_seed(seed)
    rows, decisions = vocabulary.rows(base), [chosen.decision]
    grown = vocabulary.grow(base, tokens)
    if grown:
        decisions.append(_grown(base, rows))
    saved, tied = _saved(base, asked, grown)
    _require_trainable(base, saved, stage)
    model = _with_adapter(base, config, chosen, saved, tied)
    if not quiet:
        _tell(chosen, stage)
    records = _records(config.method, base, quantisation, chosen.as_record())
    return Tuned(model, "adapter", directory, saved, decisions, records)


def _records(method: str, base: Any, quantisation: Any, chosen: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "method": method,
        "quantisation": quantisation,
        "targets": chosen,
        "vocabulary": vocabulary.rows(base),
    }


def _grown(model: Any, before: int) -> Decision:
    return Decision("vocabulary", vocabulary.rows(model), say("why_vocabulary", rows=before))


def _saved(base: Any, asked: list[str], grown: bool) -> tuple[list[str], bool]:
    """(names of the layers that are trained whole, whether embeddings and head are one of them and stay tied).

    Where the vocabulary grew these two are among them, asked for or not: the new rows stand in no other file.
    """
    ends = vocabulary.ends(base)
    named = [path for path in ends if hit(asked, [path])]
    if not grown and not named:
        return asked, False
    tied = vocabulary.tied(base)
    both = [path for path in ends if grown or tied or path in named]
    return [*[name for name in asked if not hit([name], ends)], *both], tied


def _require_trainable(base: Any, saved: list[str], stage: str) -> None:
    """TARGET-005 where a layer to be trained whole is stored in 8 or 4 bits."""
    stored = {
        name.removesuffix(".weight"): 8 if weight.dtype == torch.int8 else 4
        for name, weight in base.named_parameters()
        if not weight.is_floating_point()
    }
    for path, bits in stored.items():
        found = [name for name in saved if f".{name}." in f".{path}."]
        if found:
            key = f"{stage}.lora.save_modules"
            raise refuse("TARGET-005", stage=stage, key=key, unknown=", ".join(found), bits=bits)


def _with_adapter(base: Any, config: Tuning, chosen: targets.Targets, saved: list[str], tied: bool) -> Any:
    """The model with its adapter, fresh; nothing else requires a gradient."""
    from peft import LoraConfig, get_peft_model  # here: it imports bitsandbytes, which talks before it is silenced

    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        use_rslora=config.lora.rslora,
        use_dora=config.lora.dora,
        target_modules=list(chosen.names),
        modules_to_save=list(saved) or None,
        ensure_weight_tying=tied,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(base, lora)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # PEFT keeps layers trained whole in the base's precision
    found = sum(name.endswith("lora_A.default") for name, _ in adapted.named_modules())
    if found != len(chosen.paths):
        raise StageFailed(f"{len(chosen.paths)} layers were chosen, and the adapter stands on {found}: {chosen.names}")
    return adapted


def _tell(chosen: targets.Targets, stage: str) -> None:
    """Which layers were chosen, where a person sees it, once for all ranks: q_proj x 30, v_proj x 30."""
    if os.environ.get("RANK", "0") != "0":
        return
    counts = Counter(path.rpartition(".")[2] for path in chosen.paths)
    names = ", ".join(f"{name} x {count}" for name, count in counts.items())
    note(say("adapting", stage=stage, layers=len(chosen.paths), names=names))
    if chosen.left:
        note(say("adapting_left", stage=stage, left=", ".join(chosen.left)))
