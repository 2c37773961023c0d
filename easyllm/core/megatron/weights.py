"""First weights that depend on the seed and a weight's name only, so that every layout starts with the same model.

Megatron draws from one stream in the order in which a rank builds its part: another number of pipeline stages, and
on GPUs of tensor parallel ranks, is another model; and stages with equal seeds start with bit-equal layers.
"""

import hashlib
import re
from typing import Any

import torch
from megatron.core import parallel_state

from easyllm.core.errors import StageFailed
from easyllm.core.families.table import FUSED_NORMS
from easyllm.core.families.weights import Weights
from easyllm.core.megatron.architecture import Architecture

LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
INTO_RESIDUAL = ("linear_proj.weight", "linear_fc2.weight")
"""Matrices whose output is added to the residual stream: drawn smaller, the more layers add to it."""
VOCABULARY = ("embedding.word_embeddings.weight", "output_layer.weight")
"""Matrices with a row for every id, and padded rows behind them."""


def not_yet(weight: torch.Tensor) -> torch.Tensor:
    """In place of Megatron's own drawing: ``draw`` fills the weight once its name is known."""
    return weight


def draw(chunk: Any, a: Architecture, seed: int) -> None:
    """Fill every matrix of this rank's ``chunk``; biases are zero and norms one already.

    The whole matrix is drawn on the CPU in fp32 and this rank's part is kept, whatever the device and the dtype.
    """
    for local_name, weight in chunk.named_parameters():
        if weight.dim() < 2:
            continue
        name = whole_name(chunk, local_name, a.tie_embeddings)
        std = a.init_std / (2 * a.layers) ** 0.5 if name.endswith(INTO_RESIDUAL) else a.init_std
        whole = _whole(weight, name, std, seed)
        if name in VOCABULARY:
            whole[a.tokenizer_size :] = 0
        with torch.no_grad():
            weight.copy_(_part(whole, weight))


def fill(chunk: Any, a: Architecture, source: Weights) -> None:
    """Read every weight of this rank's ``chunk`` from ``source``, one whole tensor at a time.

    StageFailed where one has another shape.
    """
    for local_name, weight in chunk.named_parameters():
        name = whole_name(chunk, local_name, a.tie_embeddings)
        part = _part(source.read(name), weight)
        if part.shape != weight.shape:
            raise StageFailed(f"{name} has shape {list(source.shape(name))}, the architecture wants another")
        with torch.no_grad():
            weight.copy_(part)


def whole_name(chunk: Any, name: str, tied: bool) -> str:
    """The name in the whole model: layers counted from its start; a last stage's copy of the embedding is that."""
    for fused, apart in FUSED_NORMS.items():
        name = name.replace(fused, apart)
    found = LAYER.match(name)
    if found:
        number = chunk.decoder.layers[int(found[1])].layer_number - 1
        return f"decoder.layers.{number}.{name[found.end() :]}"
    return "embedding.word_embeddings.weight" if tied and name == "output_layer.weight" else name


def _cut_over(weight: torch.Tensor) -> int:
    """Tensor parallel ranks that share the matrix; 1 where each holds all of it."""
    cut = getattr(weight, "tensor_model_parallel", False)
    return int(parallel_state.get_tensor_model_parallel_world_size()) if cut else 1


def _whole(weight: torch.Tensor, name: str, std: float, seed: int) -> torch.Tensor:
    shape, ranks = list(weight.shape), _cut_over(weight)
    if ranks > 1:
        shape[weight.partition_dim] *= ranks  # type: ignore[attr-defined]
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def _part(whole: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """This rank's rows or columns. Gate and up-projection stand in one matrix and are cut each: stride 2."""
    ranks = _cut_over(weight)
    if ranks == 1:
        return whole
    dim, stride = weight.partition_dim, weight.partition_stride  # type: ignore[attr-defined]
    pieces = torch.split(whole, weight.shape[dim] // stride, dim)
    return torch.cat(pieces[parallel_state.get_tensor_model_parallel_rank() :: ranks], dim)
