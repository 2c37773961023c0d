"""The adapters of a merge with their weights, and what they must have in common. Pure, no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.digest import of_file
from easyllm.core.errors import Problem, problem, refuse
from easyllm.core.families.weights import headers
from easyllm.core.inputs import Input
from easyllm.core.stage import Job
from easyllm.merge.config import MergeConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ALIKE = {
    "base": lambda records: records["base"]["digest"],
    "quantisation": lambda records: records.get("quantisation"),
    "template": lambda records: records["template"]["hash"],
}
"""What adapters that become one model must share, by its name in the manifest."""


@dataclass(frozen=True)
class Source:
    """An adapter, and what its change of the base is multiplied by."""

    input: Input
    weight: float
    key: str
    """Of the recipe."""

    @property
    def path(self) -> Path:
        assert self.input.path is not None  # the pipeline runs a stage only when its inputs are there
        return self.input.path

    @property
    def records(self) -> Mapping[str, Any]:
        assert self.input.manifest is not None
        return self.input.manifest.records

    def settings(self) -> dict[str, Any]:
        """PEFT's configuration of the adapter."""
        found: dict[str, Any] = json.loads((self.path / CONFIG).read_text("utf-8"))
        return found


def sources(job: Job[MergeConfig]) -> list[Source]:
    """In the order of the recipe."""
    if job.config.adapters:
        roles = [f"adapters.{index}.adapter" for index in range(len(job.config.adapters))]
        weights = [entry.weight for entry in job.config.adapters]
    else:
        roles, weights = ["adapter"], [1.0]
    return [
        Source(job.inputs[role], weight, f"merge.{role}") for role, weight in zip(roles, weights, strict=True)
    ]  # fmt: skip


def source_problems(found: list[Source]) -> list[Problem]:
    """MERGE-010 to MERGE-012 and MERGE-017, of those sources that exist."""
    there = [source for source in found if source.input.manifest]
    whole = [source for source in there if source.input.manifest and source.input.manifest.kind == "model"]
    if whole:
        return [problem("MERGE-010", stage="merge", key=s.key, ref=s.input.ref) for s in whole]
    problems = [found for source in there for found in _unreadable(source)]
    if problems:
        return problems
    for source in there[1:]:
        for what, of in _ALIKE.items():
            if of(source.records) != of(there[0].records):
                refs: dict[str, Any] = {"ref": source.input.ref, "first": there[0].input.ref, "what": what}
                problems.append(problem("MERGE-011", stage="merge", key=source.key, **refs))
    if len(found) > 1 or found[0].weight != 1:
        problems += [p for source in there for p in _alone(source)]
    return problems


def _unreadable(source: Source) -> list[Problem]:
    """MERGE-017 where a file of the adapter is not there, was cut or is another."""
    try:
        source.settings()["peft_type"]
        headers(source.path / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        return [problem("MERGE-017", stage="merge", key=source.key, ref=source.input.ref, reason=reason)]
    return []


def require_published(found: list[Source]) -> None:
    """UserError MERGE-018 where an adapter's files are no longer those that its manifest tells of."""
    for source in found:
        assert source.input.manifest is not None
        for entry in source.input.manifest.outputs:
            if entry["path"] in (CONFIG, WEIGHTS) and of_file(source.path / entry["path"]) != entry["sha256"]:
                file = source.path / entry["path"]
                raise refuse("MERGE-018", stage="merge", key=source.key, ref=source.input.ref, path=str(file))


def _alone(source: Source) -> list[Problem]:
    """MERGE-012 where the adapter does more than add to weights, which cannot be weighed."""
    settings = source.settings()
    kept = ", ".join(settings.get("modules_to_save") or [])
    reason = "DoRA" if settings.get("use_dora") else f"save_modules: {kept}" if kept else ""
    return [problem("MERGE-012", stage="merge", key=source.key, ref=source.input.ref, reason=reason)] if reason else []
