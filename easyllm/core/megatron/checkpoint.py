"""Megatron's distributed checkpoints, saved in seconds and never half.

A checkpoint is a directory that may be read with any number of ranks and any tensor parallel size.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import torch as megatron_torch
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from easyllm.core.artifact import sync_directory, sync_tree, write_whole
from easyllm.core.megatron.architecture import Architecture

SAVED = "easyllm"
"""The key of our own plain values beside the tensors."""
FILES = "files.json"
"""In a checkpoint: size and CRC-32 of every other file of it."""
READ_BYTES = 1 << 24


class InProcessSave(SaveShardedStrategy):  # type: ignore[misc]  # megatron.core is untyped
    """Megatron's torch_dist format, written by torch's own writer inside each rank.

    Megatron's strategy starts a manager process and forks one process a file for every save, which takes several
    seconds and hangs in an unguarded script; this writes the same files, read by the same loader.
    """

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    def can_handle_sharded_objects(self) -> bool:
        return True

    def save(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> None:
        renamed, _, _ = megatron_torch._replace_state_dict_keys_with_sharded_keys(sharded_state_dict, True)
        save_sharded(
            megatron_torch.mcore_to_pyt_state_dict(renamed, False),
            storage_writer=FileSystemWriter(str(checkpoint_dir), thread_count=1),
            planner=megatron_torch.MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )


def save_whole(state: dict[str, Any], final: Path, architecture: Architecture, plain: dict[str, Any]) -> None:
    """Write ``state`` (sharded, of all ranks) and ``plain`` values to ``final``, which appears whole or not at all.

    Every rank calls it. A directory that a kill left under the temporary name is overwritten.
    """
    partial = final.with_name(f".{final.name}.partial")
    first = dist.get_rank() == 0
    if first:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    saved = {"architecture": architecture.as_record(), **plain}
    dist_checkpointing.save({**state, SAVED: saved}, str(partial), sharded_strategy=InProcessSave())
    sums = _sums_of_all_ranks(partial)
    if first:
        write_whole(partial / FILES, json.dumps(sums, indent=1))
        sync_tree(partial)
        os.rename(partial, final)
        sync_directory(final.parent)
    dist.barrier()


def _sums_of_all_ranks(directory: Path) -> dict[str, list[int]]:
    """[bytes, CRC-32] by file name, the files shared out over the ranks."""
    names = sorted(path.name for path in directory.iterdir())
    mine = {name: _sum(directory / name) for name in names[dist.get_rank() :: dist.get_world_size()]}
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return {name: found for part in parts for name, found in part.items()}


def _sum(path: Path) -> list[int]:
    crc = size = 0
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
    return [size, crc]


def damage(directory: Path) -> str | None:
    """The first file that is not as it was saved, by name; None where all are. Reads the whole checkpoint."""
    try:
        listed: dict[str, list[int]] = json.loads((directory / FILES).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return FILES
    for name, saved in listed.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != saved[0] or _sum(path) != saved:
            return name
    return None


def plain_values(directory: Path) -> dict[str, Any]:
    """What was saved beside the tensors, without reading any."""
    return dict(dist_checkpointing.load_common_state_dict(str(directory))[SAVED])


def load_whole(directory: Path, architecture: Architecture, state: dict[str, Any]) -> dict[str, Any]:
    """The tensors that ``state`` (sharded) asks for, and under ``SAVED`` the plain values. Every rank calls it.

    RuntimeError when the checkpoint holds another architecture: Megatron would cut or fill the vocabulary in silence.
    Tensors come in the dtype that is asked for.
    """
    loaded: dict[str, Any] = dist_checkpointing.load(state, str(directory))
    saved = dict(loaded[SAVED]["architecture"])
    asked = architecture.as_record()
    differing = [key for key in asked if key not in ("tensor_parallel", "dtype") and saved.get(key) != asked[key]]
    if differing:
        pairs = ", ".join(f"{key} {saved.get(key)!r} (asked {asked[key]!r})" for key in differing)
        raise RuntimeError(f"{directory} holds another architecture: {pairs}")
    return loaded


def rng_state() -> dict[str, Any]:
    """Every random generator of this rank, in types that a checkpoint carries."""
    import random

    import numpy
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    kind, keys, position, has_gauss, gauss = numpy.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.tensor(numpy.asarray(keys).astype("int64")), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(),
        "tracker": dict(get_cuda_rng_tracker().get_states()),
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """The inverse of rng_state."""
    import random

    import numpy
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    random.setstate(state["python"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    numpy.random.set_state((kind, keys.numpy().astype("uint32"), position, has_gauss, gauss))
    torch.cuda.set_rng_state(state["cuda"])
    torch.set_rng_state(state["torch"])  # after cuda: under the CPU shim the two are one generator
    get_cuda_rng_tracker().set_states(state["tracker"])


def sharded_rng(state: Callable[[], dict[str, Any]] | None = rng_state) -> Any:
    """This rank's generators as its own shard; give None to ask a checkpoint for them."""
    from megatron.core.dist_checkpointing.mapping import ShardedObject

    data = state() if state else None
    return ShardedObject("rng", data, (dist.get_world_size(),), (dist.get_rank(),), replica_id=0)
