"""Which checkpoints stand in a training directory: the newest whole one to go on from, old ones to drop."""

import re
import shutil
from pathlib import Path

NAME = re.compile(r"step-(\d{6,})")


def path_of(directory: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimizer steps stands."""
    return directory / f"step-{step:06d}"


def whole(directory: Path) -> list[tuple[int, Path]]:
    """(step, path) of every checkpoint, oldest first. One that a kill cut never got such a name."""
    if not directory.is_dir():
        return []
    found = [(NAME.fullmatch(path.name), path) for path in directory.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def newest(directory: Path) -> tuple[int, Path] | None:
    found = whole(directory)
    return found[-1] if found else None


def prune(directory: Path, keep: int, keep_every: int | None = None) -> None:
    """Drop all but the ``keep`` newest and those at multiples of ``keep_every``, and what a kill left half-written."""
    old = whole(directory)[:-keep] if keep else whole(directory)
    for step, path in old:
        if keep_every is None or step % keep_every:
            shutil.rmtree(path)
    for path in directory.glob(".step-*"):
        shutil.rmtree(path)
