"""Which two models are compared, and on which rows: what the recipe names, or what the artifact tells of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.artifact import read_manifest
from easyllm.core.inputs import Input
from easyllm.core.messages import say
from easyllm.core.models import recorded_base
from easyllm.core.stage import Job
from easyllm.evaluate.config import EvaluateConfig


@dataclass(frozen=True)
class Sides:
    """The tuned model and its base. An adapter stands on the base that its own manifest names."""

    tuned: Input
    """The model, or the base below the adapter."""
    adapter: Path | None
    base: Input | None
    """None where the recipe names none and the artifact does not know one: nothing is compared then."""
    why_base: str
    merged_from: "Adapted | None" = None
    """The adapter that ``tuned`` was merged from, where it is still there: a side of its own."""


@dataclass(frozen=True)
class Adapted:
    """An adapter's artifact and the base it was trained on."""

    adapter: Path
    records: Mapping[str, Any]
    base: Input


def sides(job: Job[EvaluateConfig]) -> Sides:
    """Raises UserError BASE-005 or BASE-006 where the recorded base is gone or another."""
    tuned = job.inputs["model"]
    records: Mapping[str, Any] = tuned.manifest.records if tuned.manifest else {}
    below = None
    if "base" in records:
        below = recorded_base(records["base"], job.cache_dir, job.stage, "evaluate.model")
    is_adapter = tuned.manifest is not None and tuned.manifest.kind == "adapter"
    base, why = job.inputs.get("base"), say("why_in_recipe")
    if base is None:
        base, why = below, _why(tuned, below)
    if is_adapter and below is not None:
        return Sides(below, tuned.path, base, why)
    return Sides(tuned, None, base, why, _merged_from(records, below))


def _merged_from(records: Mapping[str, Any], below: Input | None) -> Adapted | None:
    adapter = records.get("lineage", {}).get("adapter")
    if below is None or not isinstance(adapter, str):
        return None
    found = read_manifest(Path(adapter))
    # Another run may have put another adapter there since; it is a side only as long as it is of this base.
    if found is None or found.kind != "adapter" or found.records["base"] != records["base"]:
        return None
    return Adapted(Path(adapter), found.records, below)


def _why(tuned: Input, below: Input | None) -> str:
    if below:
        return say("why_made_from")
    if tuned.digest is None:
        return say("why_base_later")
    return say("why_no_base")


def row_files(job: Job[EvaluateConfig]) -> tuple[tuple[Path, ...], str]:
    """(files of held-out rows, why those): the recipe's, else those that finetune held out, else none."""
    if "data" in job.inputs:
        return job.inputs["data"].files, say("why_in_recipe")
    tuned = job.inputs["model"]
    if tuned.manifest is None or tuned.path is None:
        return (), say("why_no_rows")
    if "held_out" in tuned.manifest.records:
        found = tuned.path / "held_out.jsonl"
    else:
        lineage = tuned.manifest.records.get("lineage", {})
        found = Path(lineage.get("adapter", "")) / (lineage.get("held_out") or "-")
    return ((found,), say("why_held_out")) if found.is_file() else ((), say("why_none_held_out"))
