"""Where layout v4 is proven: the folder of packages of its own, and the command that makes it. No torch."""

import os
from pathlib import Path

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.stage import Job
from easyllm.export.config import ExportConfig
from easyllm.export.v4 import READER

PROOF = Path("transformers", "__init__.py")
"""The file by which a folder of packages is known."""


def v4_packages(job: Job[ExportConfig]) -> Path | None:
    """The folder that holds the reader's transformers; None where nobody has made it."""
    asked = job.inputs.get("v4_packages")
    if asked:
        return asked.path
    folder = default_packages(job.cache_dir)
    return folder if (folder / PROOF).is_file() else None


def awaited(job: Job[ExportConfig]) -> dict[str, str | None]:
    """What an unproven export watches, as records["watched"] names it: it is stale once the packages are there."""
    if v4_packages(job) is not None:
        return {}
    return {os.path.relpath(default_packages(job.cache_dir) / PROOF, job.run_dir): None}


def default_packages(cache: Path) -> Path:
    return cache / f"transformers-{READER['transformers']}"


def command(folder: Path) -> str:
    """Without dependencies: torch and the rest are this environment's own."""
    wanted = " ".join(f"{name}=={version}" for name, version in READER.items())
    return f"pip install --no-deps --target {folder} {wanted}"


def v4_decision(job: Job[ExportConfig]) -> Decision:
    """Whether the layout is proven here, and how it could be."""
    if v4_packages(job) is not None:
        return Decision("layout v4", "proven", say("why_v4_proven", version=READER["transformers"]))
    how = say("why_v4_unproven", command=command(default_packages(job.cache_dir)))
    return Decision("layout v4", "unproven", how)
