"""The model that is trained: a base with a fresh adapter, an adapter that is trained on, or every weight."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from easyllm.align.config import AlignConfig
from easyllm.core.models import local_model, recorded_base
from easyllm.core.stage import Job
from easyllm.core.tuning import building
from easyllm.core.tuning.adapted import load_adapted
from easyllm.core.tuning.building import Tuned


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


def build(config: AlignConfig, start: Start, dtype: torch.dtype, seed: int, tokens: int, stage: str) -> Tuned:
    """The model of ``start`` made ready by ``config.method``; an adapter goes on as it was made."""
    if start.adapter is None:
        return building.build(config, start.directory, dtype, seed, tokens, stage)
    torch.manual_seed(seed)
    model = load_adapted(start.adapter, start.records, start.directory, dtype, trainable=True)
    kept = {name: start.records.get(name) for name in ("method", "quantisation", "targets", "vocabulary")}
    saved = list(model.peft_config["default"].modules_to_save or [])
    return Tuned(model, "adapter", start.directory, saved, [], kept)
