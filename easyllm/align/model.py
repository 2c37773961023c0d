"""The model that is trained: a base with a fresh adapter, an adapter that is trained on, or every weight."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model

from easyllm.align.config import AlignConfig
from easyllm.core.artifact import Decision
from easyllm.core.models import load_model, local_model, recorded_base
from easyllm.core.stage import Job
from easyllm.core.tuning import targets
from easyllm.core.tuning.adapted import load_adapted
from easyllm.core.tuning.quantised import load_base, quantisation_record


@dataclass(frozen=True)
class Start:
    """What preference tuning starts from."""

    directory: Path
    """Weights of the base, below an adapter too."""
    words: Path
    """Where the tokenizer and its template stand."""
    base: dict[str, Any]
    """For the manifest: {"ref", "path", "digest"} of the base."""
    adapter: Path | None
    """The adapter that is trained on."""
    records: dict[str, Any]
    """Of that adapter's manifest."""


@dataclass(frozen=True)
class Tuned:
    """A model of which exactly what requires a gradient is trained."""

    model: Any
    kind: Literal["adapter", "model"]
    decisions: list[Decision]
    records: dict[str, Any]
    """For the manifest: "method", "quantisation", "targets", and what an adapter's manifest said beside them."""


def find(job: Job[AlignConfig]) -> Start:
    """The base of the recipe, or the adapter and the base its manifest names (BASE-005, BASE-006)."""
    base = job.inputs["base"]
    if base.manifest and base.manifest.kind == "adapter":
        assert base.path is not None
        records = base.manifest.records
        below = recorded_base(records["base"], job.cache_dir, job.stage, f"{job.stage}.base")
        directory = local_model(below, job.cache_dir, job.stage)
        return Start(directory, base.path, records["base"], base.path, records)
    directory = local_model(base, job.cache_dir, job.stage)
    path = str(base.path.absolute()) if base.path else None
    return Start(directory, directory, {"ref": base.ref, "path": path, "digest": base.digest}, None, {})


def build(config: AlignConfig, start: Start, dtype: torch.dtype, seed: int) -> Tuned:
    """The model of ``start`` made ready by ``config.method``; the same seed draws the same adapter."""
    torch.manual_seed(seed)
    if start.adapter:
        model = load_adapted(start.adapter, start.records, start.directory, dtype, trainable=True)
        kept = {
            name: start.records[name]
            for name in ("method", "quantisation", "targets", "vocabulary")
            if name in start.records
        }
        return Tuned(model, "adapter", [], kept)
    if config.method == "full":
        model = load_model(start.directory, torch.float32)  # a step of 1e-6 is lost in a bf16 weight
        model.requires_grad_(True)
        return Tuned(model, "model", [], {"method": "full", "quantisation": None, "targets": None})
    return _fresh(config, start.directory, dtype, seed)


def _fresh(config: AlignConfig, directory: Path, dtype: torch.dtype, seed: int) -> Tuned:
    quantisation = quantisation_record(config.method, config.quantisation, dtype)
    names, paths, decision = targets.choose(directory, config.lora.targets)
    base = load_base(directory, dtype, quantisation)
    torch.manual_seed(seed)
    saved = None if config.lora.save_modules == "auto" else list(config.lora.save_modules)
    lora = LoraConfig(
        r=config.lora.rank, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout, target_modules=list(names),
        use_rslora=config.lora.rslora, use_dora=config.lora.dora, modules_to_save=saved, task_type="CAUSAL_LM",
    )  # fmt: skip
    records = {
        "method": config.method,
        "quantisation": quantisation,
        "targets": {"names": names, "layers": len(paths)},
    }
    return Tuned(get_peft_model(base, lora), "adapter", [decision], records)
