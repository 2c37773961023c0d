"""What a layout costs one GPU: memory by part, work per step; and which layouts fit. Pure arithmetic, no torch.

Weights are counted exactly, per rank. The rest are formulas of the literature:

- optimizer states and gradients: Megatron-LM's table of its distributed optimizer (6 + 12/d bytes a weight in bf16
  with fp32 gradients, 8 + 8/d in fp32); ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054, figure 1;
- activations: Korthikanti et al. 2022, arXiv:2205.05198, equations 1 to 5, with the feed-forward's own width and gate;
- work: the matrix products of Narayanan et al. 2021, arXiv:2104.04473, appendix: forward once, backward twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from easyllm.core.megatron.architecture import Architecture

MASTER_AND_MOMENTS = 12
"""Bytes a weight of the optimizer in 16 bit training: an fp32 copy and two fp32 moments."""


@dataclass(frozen=True)
class Layout:
    """How a model is spread over ranks, and in which precision it is trained."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    micro_batches: int = 1
    """Micro batches a rank works through in one step."""
    sequence_parallel: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    recompute: bool = False
    """Whether every layer's activations are computed again in the backward pass."""
    flash: bool = False
    """Whether the attention scores are never written out (Transformer Engine)."""
    shard_optimizer: bool = False
    """Optimizer states divided over data parallel ranks: Megatron's distributed optimizer, ZeRO 1 and up."""
    shard_gradients: bool = False
    """ZeRO 2 and up."""
    shard_weights: bool = False
    """ZeRO 3."""
    gradient_bytes: int = 4
    """Megatron adds gradients up in fp32 (4), DeepSpeed keeps them in the training precision."""
    offload_optimizer: bool = False
    """Optimizer states in the memory of the host."""

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def weight_bytes(self) -> int:
        return 4 if self.precision == "fp32" else 2


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest rank, by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def rank_parameters(a: Architecture, layout: Layout) -> int:
    """Weights on the fullest rank, exactly: its layers, and the embedding or the output layer of an end stage."""
    layers = a.layers // layout.pipeline * layer_parameters(a, layout.tensor)
    embedding = a.padded_vocabulary // layout.tensor * a.hidden
    learned = a.max_positions * a.hidden if a.positions == "learned_absolute" else 0
    first, last = embedding + learned, embedding + norm_parameters(a)
    if layout.pipeline > 1:
        return layers + max(first, last)
    return layers + first + norm_parameters(a) + (0 if a.tie_embeddings else embedding)


def layer_parameters(a: Architecture, tensor: int = 1) -> int:
    """Weights of one layer on one of ``tensor`` ranks: matrices divided, norms and the outer biases on each."""
    attention = (a.heads + 2 * a.kv_heads) * a.head_dim
    up = a.ffn_hidden * (2 if a.gated else 1)
    divided = a.hidden * (attention + a.heads * a.head_dim + up + a.ffn_hidden) + (attention + up if a.biases else 0)
    everywhere = (2 * a.hidden if a.biases else 0) + 2 * norm_parameters(a)
    return divided // tensor + everywhere


def norm_parameters(a: Architecture) -> int:
    return a.hidden * (2 if a.norm == "LayerNorm" else 1)


def memory(a: Architecture, layout: Layout, micro_samples: int, sequence_tokens: int) -> Memory:
    """Bytes on the fullest rank. What CUDA, NCCL and the allocator take beside it is not in here."""
    weights = rank_parameters(a, layout)
    states = MASTER_AND_MOMENTS if layout.precision != "fp32" else 8

    def share(sharded: bool) -> int:
        return layout.data if sharded else 1

    return Memory(
        weights=weights * layout.weight_bytes // share(layout.shard_weights),
        gradients=weights * layout.gradient_bytes // share(layout.shard_gradients),
        optimizer=0 if layout.offload_optimizer else weights * states // share(layout.shard_optimizer),
        activations=activation_bytes(a, layout, micro_samples, sequence_tokens),
    )


def activation_bytes(a: Architecture, layout: Layout, micro_samples: int, sequence_tokens: int) -> int:
    """What the backward pass needs, on the first pipeline stage, which holds as many micro batches as there are stages.

    Counts the logits with their gradient where the rank has the last layer too.
    """
    positions = micro_samples * sequence_tokens
    held = min(layout.pipeline, layout.micro_batches) * (a.layers // layout.pipeline)
    whole = layer_activation_bytes(a, layout, micro_samples, sequence_tokens)
    if layout.recompute:  # the input of every layer, and one layer at work
        inputs = positions * a.hidden * layout.weight_bytes // (layout.tensor if layout.sequence_parallel else 1)
        layers = held * inputs + whole
    else:
        layers = held * whole
    logits = 0 if layout.pipeline > 1 else 2 * 4 * positions * a.padded_vocabulary // layout.tensor
    return layers + logits


def layer_activation_bytes(a: Architecture, layout: Layout, micro_samples: int, sequence_tokens: int) -> int:
    """One layer, one micro batch; in 16 bit and for GPT equation 2 of Korthikanti et al.: sbh(10 + 24/t + 5as/ht)."""
    positions, number, mask = micro_samples * sequence_tokens, layout.weight_bytes, 1 if a.dropout else 0
    # inputs of both norms and of both first matrices, masks of both outer dropouts: whole on every rank of a tensor
    # parallel group, unless sequence parallelism divides them too
    outer = positions * a.hidden * (4 * number + 2 * mask)
    attention = positions * (a.heads * 2 + a.kv_heads * 2) * a.head_dim * number  # q, k, v, and what leaves attention
    scores = 0 if layout.flash else micro_samples * a.heads * sequence_tokens**2 * (number + mask * (1 + number))
    # in front of the activation, behind it, and with a gate both halves and the product
    feed_forward = positions * a.ffn_hidden * number * (4 if a.gated else 2)
    divided = attention + scores + feed_forward
    return outer // (layout.tensor if layout.sequence_parallel else 1) + divided // layout.tensor


def flops_per_token(a: Architecture, sequence_tokens: int) -> int:
    """Floating point operations to train on one token: two a weight of a matrix forward, four backward, and attention
    over the whole sequence (the causal half is not taken off, as in the source). Recomputation is not counted."""
    matrices = (
        a.layers
        * a.hidden
        * ((a.heads + 2 * a.kv_heads) * a.head_dim + a.heads * a.head_dim + a.ffn_hidden * (3 if a.gated else 2))
        + a.hidden * a.padded_vocabulary
    )
    attention = a.layers * 2 * a.heads * a.head_dim * sequence_tokens
    return 6 * (matrices + attention)


def layouts_that_fit(
    a: Architecture,
    like: Layout,
    *,
    ranks: int,
    bytes_per_rank: int,
    global_samples: int,
    micro_samples: int,
    sequence_tokens: int,
) -> list[tuple[Layout, Memory]]:
    """Every layout over ``ranks`` that fits, the least divided first (it talks least), without recomputation first."""
    found = []
    for layout in _layouts(a, like, ranks, global_samples, micro_samples):
        cost = memory(a, layout, micro_samples, sequence_tokens)
        if cost.total <= bytes_per_rank:
            found.append((layout, cost))
    return sorted(found, key=lambda row: (row[0].recompute, row[0].tensor * row[0].pipeline, row[0].pipeline))


def _layouts(a: Architecture, like: Layout, ranks: int, global_samples: int, micro_samples: int) -> Iterator[Layout]:
    for tensor in _divisors(ranks):
        if a.heads % tensor or a.kv_heads % tensor or a.ffn_hidden % tensor or a.padded_vocabulary % tensor:
            continue
        for pipeline in _divisors(ranks // tensor):
            data = ranks // tensor // pipeline
            micro_batches, left = divmod(global_samples, micro_samples * data)
            if a.layers % pipeline or left:
                continue
            for recompute in (False, True):
                yield replace(
                    like, tensor=tensor, pipeline=pipeline, data=data, micro_batches=micro_batches, recompute=recompute
                )


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]
