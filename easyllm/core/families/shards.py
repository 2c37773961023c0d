"""Weights into safetensors, one file of them in memory at a time."""

import json
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from easyllm.core.families.weights import INDEX, Weights
from easyllm.core.progress import progress

PATTERN = "model{suffix}.safetensors"


def write_shards(
    weights: Weights, out: Path, shard_bytes: int, dtype: torch.dtype | None = None, label: str = "convert"
) -> int:
    """model.safetensors, or shards with their index, into ``out``; gives the bytes of the largest file.

    Weights are written in ``dtype``, or as they are stored. ``label`` names the progress bar.
    """
    # On the meta device: sizes without numbers.
    empty = {
        name: torch.empty(weights.shape(name), dtype=dtype or weights.dtype(name), device="meta")
        for name in weights.names()
    }
    split = split_torch_state_dict_into_shards(empty, filename_pattern=PATTERN, max_shard_size=shard_bytes)
    total = sum(tensor.nbytes for tensor in empty.values())
    numbers = sum(tensor.numel() for tensor in empty.values())
    largest = 0
    with progress(label, numbers, "weights") as bar:
        for file, names in split.filename_to_tensors.items():
            tensors = {}
            for name in names:
                read = weights.read(name)
                tensors[name] = (read if dtype is None else read.to(dtype)).contiguous()
                bar.advance(read.numel())
            save_file(tensors, out / file, metadata={"format": "pt"})
            (out / file).chmod(0o644)  # the writer leaves 0600, and a server may run as somebody else
            largest = max(largest, (out / file).stat().st_size)
            del tensors
    if split.is_sharded:
        index = {"metadata": {"total_size": total}, "weight_map": split.tensor_to_filename}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    return largest
