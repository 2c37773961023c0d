"""Megatron's distributed checkpoints, written beside the training and never half.

A checkpoint is a directory that may be read with any number of ranks and any tensor parallel size.
"""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.strategies import torch as megatron_torch
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from easyllm.core.artifact import sync_directory, sync_tree, write_whole
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.files import FILES, SAVED, sum_of


class Writer:
    """Writes checkpoints beside the training, one at a time. Every rank has one and calls it in the same order."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")  # its own: the thread's talk must not mix with the training's
        self._thread = ThreadPoolExecutor(1, "checkpoint")

    def save(self, state: dict[str, Any], final: Path, architecture: Architecture, plain: dict[str, Any]) -> "Saving":
        """Copy ``state`` (sharded, of all ranks) and begin to write it with ``plain`` values.

        Training may go on at once. ``final`` appears whole, when ``Saving.finish`` returns, or not at all; a directory
        that a kill left under the temporary name is overwritten.
        """
        partial = final.with_name(f".{final.name}.partial")
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier()
        saved = {"architecture": architecture.as_record(), **plain}
        strategy = ThreadSave(self._thread, self._group)
        dist_checkpointing.save({**state, SAVED: saved}, str(partial), sharded_strategy=strategy)
        # After the shards, whose writing ends on all ranks at the same time: every file is there then.
        sums = self._thread.submit(_own_sums, partial, dist.get_rank(), dist.get_world_size())
        return Saving(final, partial, [*strategy.begun, sums])

    def close(self) -> None:
        """Wait for what is being written."""
        self._thread.shutdown()
        dist.destroy_process_group(self._group)


class Saving:
    """A checkpoint on its way to the disk. Every rank calls its methods in the same order."""

    def __init__(self, final: Path, partial: Path, work: "list[Future[Any]]") -> None:
        self.final, self._partial, self._work = final, partial, work

    def ready(self) -> bool:
        """Whether ``finish`` would not wait, on any rank."""
        written = torch.tensor(float(all(part.done() for part in self._work)))
        if dist.get_backend() == "nccl":
            written = written.cuda()
        dist.all_reduce(written, dist.ReduceOp.MIN)
        return bool(written)

    def finish(self) -> None:
        """Wait, and let the checkpoint appear under its name. What failed in the thread is raised here."""
        mine = [part.result() for part in self._work][-1]
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, mine)
        if dist.get_rank() == 0:
            sums = {name: found for part in parts for name, found in part.items()}
            write_whole(self._partial / FILES, json.dumps(sums, indent=1))
            sync_tree(self._partial)
            os.rename(self._partial, self.final)
            sync_directory(self.final.parent)
        dist.barrier()


class ThreadSave(SaveShardedStrategy):  # type: ignore[misc]  # megatron.core is untyped
    """Megatron's torch_dist format, written by torch's own writer in a thread of each rank.

    Megatron's strategy starts a manager process and forks one process a file for every save, which takes several
    seconds and hangs in an unguarded script; this writes the same files, read by the same loader.
    """

    def __init__(self, thread: ThreadPoolExecutor, group: Any) -> None:
        super().__init__("torch_dist", 1)
        self._thread, self._group = thread, group
        self.begun: list[Future[Any]] = []

    def can_handle_sharded_objects(self) -> bool:
        return True

    def save(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> None:
        for shard in nested_values(sharded_state_dict):
            if isinstance(shard, ShardedTensor):  # the optimizer's next step changes the original
                shard.data = shard.data.detach().to("cpu", copy=True)
        renamed, _, _ = megatron_torch._replace_state_dict_keys_with_sharded_keys(sharded_state_dict, True)
        state = megatron_torch.mcore_to_pyt_state_dict(renamed, False)
        writer = FileSystemWriter(str(checkpoint_dir), thread_count=1)
        planner = megatron_torch.MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
        self.begun.append(
            self._thread.submit(save_sharded, state, storage_writer=writer, planner=planner, process_group=self._group)
        )


def _own_sums(directory: Path, rank: int, ranks: int) -> dict[str, list[int]]:
    """[bytes, CRC-32] by file name, the files shared out over the ranks; they are on the disk then."""
    names = sorted(path.name for path in directory.iterdir())
    return {name: sum_of(directory / name, sync=True) for name in names[rank::ranks]}


def plain_values(directory: Path) -> dict[str, Any]:
    """What was saved beside the tensors, without reading any."""
    return dict(dist_checkpointing.load_common_state_dict(str(directory))[SAVED])


def load_whole(directory: Path, architecture: Architecture, state: dict[str, Any]) -> dict[str, Any]:
    """The tensors that ``state`` (sharded) asks for, and under ``SAVED`` the plain values. Every rank calls it.

    RuntimeError when the checkpoint holds another architecture: Megatron would cut or fill the vocabulary in silence.
    Tensors come in the dtype that is asked for.
    """
    loaded: dict[str, Any] = dist_checkpointing.load(state, str(directory))
    saved = Architecture.from_record(loaded[SAVED]["architecture"]).as_record()  # with what older ones leave open
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
