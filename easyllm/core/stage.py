"""The contract between the pipeline and a stage.

A stage is a package ``easyllm.NAME`` with

* ``config.py``  its Section, with ``Takes`` marks on what it points at (no heavy imports);
* ``checks.py``  ``check(job) -> list[Problem]``: what must hold, pure, no torch;
* ``plan.py``    ``plan(job) -> Plan``: what will be done and why, pure, no torch;
* ``run.py``     ``run(job) -> Result``: writes its files into ``job.out``; heavy imports inside functions.

``run`` may keep resume state anywhere in ``job.out``: names that start with a dot at its top level are
dropped when the artifact is published, and the directory is handed over as it was when the same job goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from easyllm.core.artifact import Decision
from easyllm.core.cluster import ClusterConfig
from easyllm.core.inputs import Input
from easyllm.core.section import Section

C = TypeVar("C", bound=Section)


@dataclass(frozen=True)
class Job(Generic[C]):
    """One stage of one recipe, resolved: everything a stage may know."""

    stage: str
    config: C
    inputs: Mapping[str, Input]
    """By config field. An input whose stage has not run yet has no manifest."""
    seed: int
    recipe: str
    run_dir: Path
    cache_dir: Path
    out: Path
    """Where ``run`` writes: ``<stage>.partial``, there already, perhaps with the state of a cut run."""
    cluster: ClusterConfig | None = None
    """Where the recipe wants it done; None and launcher local: here. It never changes what comes out."""

    def ready(self, role: str) -> bool:
        """Whether the input is there to be read (a stage before may not have run yet)."""
        found = self.inputs.get(role)
        return found is not None and found.digest is not None


@dataclass(frozen=True)
class Plan:
    """What a stage would do, in numbers a person checks before spending hours."""

    figures: dict[str, Any] = field(default_factory=dict)
    """Name with unit -> value, in reading order: tokens, steps, ... Names are English; ``term`` knows all of them."""
    commands: list[str] = field(default_factory=list)
    """Exact command lines; they run by hand."""
    decisions: list[Decision] = field(default_factory=list)
    disk_bytes: int = 0
    """What the stage needs on the disk of the runs while it works."""
    memory_bytes: int = 0
    """Estimated peak, all ranks together; 0 where it does not matter."""


@dataclass(frozen=True)
class Result:
    """What a stage says of what it made."""

    kind: str
    metrics: dict[str, Any] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    records: dict[str, Any] = field(default_factory=dict)
