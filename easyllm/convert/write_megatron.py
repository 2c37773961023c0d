"""Weights into Megatron's distributed checkpoint format (torch_dist), one tensor in memory at a time.

Without Megatron: the format is torch.distributed.checkpoint's, with Megatron's names and two small files beside it.
"""

import io
import json
import re
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from easyllm.core.families.table import FUSED_NORMS
from easyllm.core.families.weights import Weights
from easyllm.core.megatron.files import FILES, sum_of
from easyllm.core.progress import Progress, progress

LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
WITH_EXTRA_STATE = (
    "self_attention.linear_qkv", "self_attention.core_attention", "self_attention.linear_proj", "mlp.linear_fc1",
    "mlp.linear_fc2",
)  # fmt: skip
"""Modules for each of which Megatron asks an object beside its tensors. It is empty unless they compute in fp8."""
BACKENDS = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch",
            "common_backend_version": 1}  # fmt: skip
COMMON, CONFIG = "common.pt", "metadata.json"


def write_checkpoint(
    weights: Weights, directory: Path, plain: dict[str, Any], dtype: torch.dtype | None = None
) -> None:
    """A checkpoint of the model alone into the empty ``directory``, for any layout of either engine to load.

    ``weights`` have Megatron's names at tensor parallel 1. ``plain`` values stand beside the tensors.
    """
    sizes = sum(torch.Size(weights.shape(name)).numel() for name in weights.names())
    with progress("convert", sizes, "weights") as bar, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # this is one process, as it is meant
        writer = FileSystemWriter(str(directory), thread_count=1)
        save_distributed({}, storage_writer=writer, planner=_OneByOne(weights, dtype, bar), no_dist=True)
    torch.save(plain, directory / COMMON)
    (directory / CONFIG).write_text(json.dumps(BACKENDS), "utf-8")
    sums = {path.name: sum_of(path, sync=True) for path in sorted(directory.iterdir())}
    (directory / FILES).write_text(json.dumps(sums, indent=1), "utf-8")


def file_key(name: str) -> tuple[str, int | None]:
    """The key that holds a tensor, and its place among the layers that are stacked there."""
    for fused, apart in FUSED_NORMS.items():
        name = name.replace(apart, fused)
    found = LAYER.match(name)
    return (f"decoder.layers.{name[found.end() :]}", int(found[1])) if found else (name, None)


class _OneByOne(SavePlanner):
    """Plans every tensor as one box of what it is stacked in, and reads it when its turn to be written has come."""

    def __init__(self, weights: Weights, dtype: torch.dtype | None, bar: Progress) -> None:
        self._weights, self._dtype, self._bar = weights, dtype, bar
        self._names: dict[MetadataIndex, tuple[str, int | None]] = {}

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        """Nothing: the state is not in memory."""

    def create_local_plan(self) -> SavePlan:
        stacked: defaultdict[str, int] = defaultdict(int)
        for name in self._weights.names():
            stacked[file_key(name)[0]] += 1
        layers = stacked[file_key("decoder.layers.0.mlp.linear_fc2.weight")[0]]
        empty = [f"decoder.layers.{m}._extra_state/shard_{n}_{layers}" for m in WITH_EXTRA_STATE for n in range(layers)]
        objects = [WriteItem(MetadataIndex(key), WriteItemType.BYTE_IO) for key in empty]
        return SavePlan([*(self._item(name, stacked) for name in self._weights.names()), *objects])

    def _item(self, name: str, stacked: dict[str, int]) -> WriteItem:
        key, layer = file_key(name)
        shape = self._weights.shape(name)
        size, box, offsets = shape, shape, (0,) * len(shape)
        if layer is not None:
            size, box, offsets = (stacked[key], *shape), (1, *shape), (layer, *offsets)
        index = MetadataIndex(key, torch.Size(offsets))
        self._names[index] = name, layer
        properties = TensorProperties(dtype=self._dtype or self._weights.dtype(name))
        chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(box))
        return WriteItem(index, WriteItemType.SHARD, tensor_data=TensorWriteData(chunk, properties, torch.Size(size)))

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        if write_item.type is WriteItemType.BYTE_IO:
            nothing = io.BytesIO()
            torch.save([None], nothing)
            return nothing
        name, layer = self._names[write_item.index]
        tensor = self._weights.read(name)
        self._bar.advance(tensor.numel())
        tensor = tensor.to(self._dtype or tensor.dtype).contiguous()
        return tensor if layer is None else tensor[None]
