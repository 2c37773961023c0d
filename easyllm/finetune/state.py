"""The state a cut run goes on from: one file, written whole or not at all, and what it names beside itself.

``step-N.pt`` is written by the first rank alone, and last: files of single ranks (``ranks-N``, DeepSpeed's) and the
best weights so far (``best-N.pt``) are there before it, and only it makes them count.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from easyllm.core.artifact import sync_directory, sync_tree

_PREFIX, _BEST, _RANKS, _SUFFIX, _HALF = "step-", "best-", "ranks-", ".pt", ".half"


def save(folder: Path, step: int, state: dict[str, Any], best: int | None = None) -> None:
    """Write ``state`` beside, fsync, rename, then drop what is older: a kill leaves the old state or the new.

    ``best`` is the step whose kept weights belong to it.
    """
    folder.mkdir(exist_ok=True)
    ranks = ranks_folder(folder, step)
    if ranks.is_dir():
        sync_tree(ranks)
    final = folder / f"{_PREFIX}{step:08d}{_SUFFIX}"
    _write(final, state)
    needed = {final, ranks, *([_best(folder, best)] if best else [])}
    for other in folder.iterdir():
        if other not in needed:
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest whole state; files that a kill left half written do not carry its name."""
    found = sorted(folder.glob(f"{_PREFIX}*{_SUFFIX}"))
    return torch.load(found[-1], weights_only=True) if found else None


def ranks_folder(folder: Path, step: int) -> Path:
    """For what each rank writes by itself."""
    return folder / f"{_RANKS}{step:08d}"


def save_best(folder: Path, step: int, weights: dict[str, torch.Tensor]) -> None:
    """Beside the best before, which the state on the disk may still name."""
    folder.mkdir(exist_ok=True)
    _write(_best(folder, step), weights)


def load_best(folder: Path, step: int) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(_best(folder, step), weights_only=True)
    return weights


def _best(folder: Path, step: int) -> Path:
    return folder / f"{_BEST}{step:08d}{_SUFFIX}"


def _write(final: Path, content: dict[str, Any]) -> None:
    half = final.with_name(final.name + _HALF)
    with half.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, final)
    sync_directory(final.parent)
