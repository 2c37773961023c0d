"""Which directory of a checkpoint that Megatron-LM wrote holds the tensors. No torch."""

from pathlib import Path
from typing import Any

from easyllm.core.artifact import read_manifest
from easyllm.core.errors import UserError, problem
from easyllm.core.messages import say

METADATA = ".metadata"
"""The file that a distributed checkpoint is known by."""
TRACKER = "latest_checkpointed_iteration.txt"


def iteration(path: Path) -> Path:
    """The directory with the tensors: ``path``, or the iteration that Megatron-LM's tracker file names in it."""
    if read_manifest(path) is not None and (path / "checkpoint").is_dir():
        path = path / "checkpoint"  # of our artifact
    if (path / METADATA).is_file() or any(path.glob("mp_rank_*")):
        return path
    tracker = path / TRACKER
    if tracker.is_file():
        name = tracker.read_text("utf-8").strip()
        found = path / (f"iter_{int(name):07d}" if name.isdigit() else name)
        if found.is_dir():
            return found
        raise _refused("CONVERT-021", path, reason=say("iteration_gone", file=TRACKER, name=name))
    raise _refused("CONVERT-020", path)


def _refused(code: str, path: Path, **numbers: Any) -> UserError:
    return UserError(problem(code, stage="convert", key="convert.checkpoint", path=str(path), **numbers))
