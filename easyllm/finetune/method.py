"""The model that is trained: the base with a fresh adapter, or the base itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model

from easyllm.core.artifact import Decision
from easyllm.core.errors import StageFailed
from easyllm.core.tuning import targets
from easyllm.core.tuning.quantised import load_base, quantisation_record
from easyllm.finetune.config import FinetuneConfig


@dataclass(frozen=True)
class Tuned:
    """A model of which exactly what requires a gradient is trained."""

    model: Any
    kind: Literal["adapter", "model"]
    """What the stage publishes."""
    decisions: list[Decision]
    records: dict[str, Any]
    """For the manifest: "method", "quantisation", "targets"."""


def build(config: FinetuneConfig, directory: Path, dtype: torch.dtype, seed: int) -> Tuned:
    """The base in ``directory`` made ready by ``config.method``; the same seed draws the same adapter on every rank."""
    quantisation = quantisation_record(config.method, config.quantisation, dtype)
    names, paths, decision = targets.choose(directory, config.lora.targets)
    base = load_base(directory, dtype, quantisation)
    torch.manual_seed(seed)
    records = {
        "method": config.method,
        "quantisation": quantisation,
        "targets": {"names": names, "layers": len(paths)},
    }
    return Tuned(_with_adapter(base, config, names, len(paths)), "adapter", [decision], records)


def _with_adapter(model: Any, config: FinetuneConfig, names: list[str], layers: int) -> Any:
    """The model with its adapter, fresh; nothing else requires a gradient."""
    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=names,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora)
    found = sum(name.endswith("lora_A.default") for name, _ in adapted.named_modules())
    if found != layers:
        raise StageFailed(f"finetune: {layers} layers were chosen, and the adapter stands on {found}: {names}")
    return adapted
