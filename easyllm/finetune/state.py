"""The state a cut run goes on from: one file, written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch

from easyllm.core.artifact import sync_directory

_PREFIX, _SUFFIX, _HALF = "step-", ".pt", ".half"


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write ``state`` beside, fsync, rename, then drop the older ones: a kill leaves the old state or the new."""
    folder.mkdir(exist_ok=True)
    final = folder / f"{_PREFIX}{step:08d}{_SUFFIX}"
    half = final.with_name(final.name + _HALF)
    with half.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, final)
    sync_directory(folder)
    for other in folder.iterdir():
        if other != final:
            other.unlink()


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest whole state; files that a kill left half written do not carry its name."""
    found = sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))
    return torch.load(found[-1], weights_only=True) if found else None
