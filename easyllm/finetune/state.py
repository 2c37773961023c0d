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
    final = _state(folder, step)
    write_tensors(final, state)
    needed = {final, ranks, *([_best(folder, best)] if best else [])}
    for other in folder.iterdir():
        if other not in needed:
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def newest_step(folder: Path) -> int:
    """Of the newest whole state, 0 where there is none; files that a kill left half written do not carry its name."""
    found = (path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"))
    return max(map(int, found), default=0)


def load(folder: Path, step: int) -> dict[str, Any]:
    kept: dict[str, Any] = torch.load(_state(folder, step), weights_only=True)
    return kept


def ranks_folder(folder: Path, step: int) -> Path:
    """For what each rank writes by itself."""
    return folder / f"{_RANKS}{step:08d}"


def save_best(folder: Path, step: int, weights: dict[str, torch.Tensor]) -> None:
    """Beside the best before, which the state on the disk may still name."""
    folder.mkdir(exist_ok=True)
    write_tensors(_best(folder, step), weights)


def load_best(folder: Path, step: int) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(_best(folder, step), weights_only=True)
    return weights


def _state(folder: Path, step: int) -> Path:
    return folder / f"{_PREFIX}{step:08d}{_SUFFIX}"


def _best(folder: Path, step: int) -> Path:
    return folder / f"{_BEST}{step:08d}{_SUFFIX}"


def write_tensors(final: Path, content: dict[str, Any]) -> None:
    """Beside, fsync, rename."""
    half = final.with_name(final.name + _HALF)
    with half.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, final)
    sync_directory(final.parent)
