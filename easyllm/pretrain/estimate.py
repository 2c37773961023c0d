"""What a layout costs one rank: memory by part, work per step. Pure arithmetic, no torch.

Weights are counted exactly, per rank. The rest are formulas of the literature:

- optimizer states and gradients: Megatron-LM's table of its distributed optimizer (6 + 12/d bytes a weight in 16 bit
  with fp32 gradients, 8 + 8/d in fp32); ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054, figure 1;
- activations: Korthikanti et al. 2022, arXiv:2205.05198, equations 1 to 6, with the feed-forward's own width and gate,
  for Transformer Engine's fused kernels; for layers of torch, which keep more, what they were counted to keep;
- work: the matrix products of Narayanan et al. 2021, arXiv:2104.04473, appendix: forward once, backward twice.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.layout import Layout

MASTER_AND_MOMENTS = 12
"""Bytes a weight of the optimizer in 16 bit training: an fp32 copy and two fp32 moments."""
MOMENTS = 8
"""In fp32 training the weights are their own master copy."""
FLOAT_BYTES = 4
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Training:
    """How a model is spread over ranks and trained: all that its memory depends on, but the model itself."""

    layout: Layout
    """How one copy is spread."""
    data: int
    """Copies."""
    micro_batches: int
    """Micro batches that a rank works through in one step."""
    micro_samples: int
    """Samples per rank per forward pass."""
    sequence_tokens: int
    recompute: Literal["none", "selective", "full"] = "none"
    fused: bool = False
    """Whether the layers are Transformer Engine's fused kernels; else Megatron's own with torch's kernels."""
    distributed_optimizer: bool = False
    """Megatron's own: the optimizer's states divided over data and context parallel ranks."""
    zero: int | None = None
    """DeepSpeed's ZeRO stage, 0 to 3; None is the engine ``megatron``."""
    offload_optimizer: bool = False
    """Optimizer states in the memory of the host."""

    @property
    def ranks(self) -> int:
        return self.layout.model_ranks * self.data

    @property
    def positions(self) -> int:
        """Tokens that a rank sees at once."""
        return self.micro_samples * self.sequence_tokens // self.layout.context

    def share(self, stage: int) -> int:
        """Over how many ranks a part is divided that ZeRO divides from ``stage`` on."""
        divided = self.distributed_optimizer if self.zero is None and stage == 1 else (self.zero or 0) >= stage
        return self.data * self.layout.context if divided else 1


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank, by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    host: int = 0
    """Optimizer states that are in the host's memory instead."""

    @property
    def total(self) -> int:
        """On the GPU."""
        return self.weights + self.gradients + self.optimizer + self.activations


def memory(a: Architecture, training: Training) -> Memory:
    """Bytes on the fullest rank. What CUDA, NCCL and the allocator take beside it is not in here."""
    ends = [_stage_memory(a, training, first=True)]
    if training.layout.pipeline > 1:
        ends.append(_stage_memory(a, training, first=False))
    return max(ends, key=lambda end: end.total)


def _stage_memory(a: Architecture, training: Training, first: bool) -> Memory:
    """Of the first or the last pipeline stage: between them, no stage holds more than these."""
    weights, width = stage_parameters(a, training.layout, first), WEIGHT_BYTES[a.dtype]
    # From stage 1 on DeepSpeed copies fp32 weights as it copies 16 bit ones.
    copied = width < FLOAT_BYTES or (training.zero or 0) > 0
    states = weights * (MASTER_AND_MOMENTS if copied else MOMENTS) // training.share(1)
    return Memory(
        weights=weights * width // training.share(3),
        gradients=weights * FLOAT_BYTES // training.share(2),
        optimizer=0 if training.offload_optimizer else states,
        activations=_activations(a, training, first),
        host=states if training.offload_optimizer else 0,
    )


def rank_parameters(a: Architecture, layout: Layout) -> int:
    """Weights on the fullest rank, exactly."""
    return max(stage_parameters(a, layout, first) for first in (True, False))


def stage_parameters(a: Architecture, layout: Layout, first: bool) -> int:
    """Weights on a rank of the first or the last stage: its layers, and the embedding or the output layer."""
    layers = a.layers // layout.pipeline * layer_parameters(a, layout.tensor)
    embedding = a.padded_vocabulary // layout.tensor * a.hidden
    learned = a.max_positions * a.hidden if a.positions == "learned_absolute" else 0
    first_norm = norm_parameters(a) if a.embedding_norm else 0
    front, end = embedding + learned + first_norm, embedding + norm_parameters(a)  # tied ones stand on both stages
    if layout.pipeline > 1:
        return layers + (front if first else end)
    return layers + front + norm_parameters(a) + (0 if a.tie_embeddings else embedding)


def layer_parameters(a: Architecture, tensor: int = 1) -> int:
    """Weights of one layer on one of ``tensor`` ranks: matrices divided, norms and the outer biases on each."""
    attention = (a.heads + 2 * a.kv_heads) * a.head_dim
    up = a.ffn_hidden * (2 if a.gated else 1)
    biases = attention + up if a.biases else attention if a.qkv_bias else 0
    divided = a.hidden * (attention + a.heads * a.head_dim + up + a.ffn_hidden) + biases
    norms = 2 * norm_parameters(a) + (2 * a.head_dim if a.qk_norm else 0)
    everywhere = (2 * a.hidden if a.biases else 0) + norms
    return divided // tensor + everywhere


def norm_parameters(a: Architecture) -> int:
    return a.hidden * (2 if a.norm == "LayerNorm" else 1)


def _activations(a: Architecture, training: Training, first: bool) -> int:
    """What the backward pass needs on that stage: its layers for every micro batch in flight, and the model's ends."""
    layout, width = training.layout, WEIGHT_BYTES[a.dtype]
    held = int(_micro_batches_in_flight(training, first) * (a.layers // layout.pipeline))
    layer = layer_activation_bytes(a, training)
    if training.recompute == "full":  # the input of every layer, and one layer at work
        layers = held * _whole(training, a.hidden * width) + layer
    else:
        layers = held * layer
    if layout.pipeline > 1 and first:
        return layers
    return layers + _whole(training, a.hidden * _norm_width(a, training)) + 2 * logits_bytes(a, training)


def logits_bytes(a: Architecture, training: Training) -> int:
    """The loss keeps them in fp32; their gradient is as large."""
    return FLOAT_BYTES * training.positions * a.padded_vocabulary // training.layout.tensor


def _whole(training: Training, bytes_a_token: int) -> int:
    """What every rank of a tensor parallel group keeps, unless sequence parallelism divides it too."""
    layout = training.layout
    return training.positions * bytes_a_token // (layout.tensor if layout.sequence else 1)


def _micro_batches_in_flight(training: Training, first: bool) -> Fraction:
    """Whose activations a stage holds at once. Interleaving adds (p - 1)/(p v): Korthikanti et al., section 4.2.3."""
    stages, virtual = training.layout.pipeline, training.layout.virtual_pipeline
    if not first:
        return Fraction(1)
    more = Fraction(stages - 1, virtual) if virtual > 1 else Fraction(0)
    return min(stages + more, Fraction(training.micro_batches))


def layer_activation_bytes(a: Architecture, training: Training) -> int:
    """One layer, one micro batch. Fused and for GPT in 16 bit: equation 6 of Korthikanti et al., sbh(10 + 24/t)."""
    width, mask = WEIGHT_BYTES[a.dtype], _mask_width(a, training)
    outer = a.hidden * (2 * _norm_width(a, training) + 2 * mask)
    # Before the activation, behind it, and with a gate both halves and the product; torch cuts the halves into copies.
    feed_forward = a.ffn_hidden * width * ((4 if training.fused else 5) if a.gated else 2)
    divided = _attention_width(a, training) + feed_forward
    return _whole(training, outer) + training.positions * divided // training.layout.tensor


def _attention_width(a: Architecture, training: Training) -> int:
    """Bytes kept for each token between q, k, v and what leaves attention, both included."""
    width, heads = WEIGHT_BYTES[a.dtype], a.heads * a.head_dim
    if training.fused or training.recompute == "selective":
        return (2 * heads + 2 * a.kv_heads * a.head_dim) * width
    if not a.dropout:  # torch's kernel keeps no scores, but is given k and v repeated for every head of their group
        return 4 * heads * width
    # With dropout torch has no kernel for the CPU: of every score the softmax, the mask and their product in fp32, and
    # q, k and v in fp32 beside what leaves; in fp32 training scaled copies of two of them come on top.
    beside = 6 * FLOAT_BYTES if width == FLOAT_BYTES else 3 * FLOAT_BYTES + width
    return beside * heads + 3 * FLOAT_BYTES * a.heads * training.sequence_tokens


def _norm_width(a: Architecture, training: Training) -> int:
    """Bytes that a norm keeps for each number: its input and its output. torch's RMSNorm works on a copy in fp32 and
    keeps that and the normed one, beside the output."""
    width = WEIGHT_BYTES[a.dtype]
    return 2 * width if training.fused or a.norm == "LayerNorm" else 2 * FLOAT_BYTES + width


def _mask_width(a: Architecture, training: Training) -> int:
    """Of dropout; torch's on the CPU is as wide as the numbers that it is for."""
    if not a.dropout:
        return 0
    return 1 if training.fused else WEIGHT_BYTES[a.dtype]


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
