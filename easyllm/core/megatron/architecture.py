"""The architecture record: everything that must be known to build, convert or size a model. No torch here."""

from dataclasses import asdict, dataclass, field
from typing import Any

VOCABULARY_MULTIPLE = 128
"""Rows of the embedding are padded to a multiple of this times the tensor parallel size."""


@dataclass(frozen=True)
class Architecture:
    """One decoder-only model. Written by pretrain into its manifest, read by convert; sizes are per whole model."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_hidden: int
    norm: str
    """RMSNorm or LayerNorm, as Megatron calls them."""
    norm_epsilon: float
    positions: str
    """rope or learned_absolute, as Megatron calls them."""
    rope_theta: float | None
    max_positions: int
    tie_embeddings: bool
    biases: bool
    gated: bool
    """Whether the feed-forward layer has a gate beside its up-projection (SwiGLU)."""
    activation: str
    """silu or gelu_tanh."""
    init_std: float
    dropout: float
    tokenizer_size: int
    """Ids the tokenizer can give: rows that mean something."""
    padded_vocabulary: int
    """Rows the model has. Decided once, here: another size loads from a checkpoint without an error and
    gives another loss, because the padded rows take part in the softmax."""
    tensor_parallel: int
    """Ranks it was trained over; the weights do not depend on it."""
    dtype: str = "float32"
    special_ids: dict[str, int] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Architecture":
        """The inverse of as_record. TypeError where a key is missing or unknown."""
        return cls(**record)

    def parameters(self) -> int:
        """Exact number of weights, padded rows included; tied weights count once."""
        embedding = self.padded_vocabulary * self.hidden
        learned = self.max_positions * self.hidden if self.positions == "learned_absolute" else 0
        output = 0 if self.tie_embeddings else embedding
        return embedding + learned + output + self.layers * self._layer() + self._norm()

    def _norm(self) -> int:
        return self.hidden * (2 if self.norm == "LayerNorm" else 1)

    def _layer(self) -> int:
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        up = self.ffn_hidden * (2 if self.gated else 1)
        weights = self.hidden * (qkv + up + self.ffn_hidden + self.heads * self.head_dim)
        biases = qkv + up + 2 * self.hidden if self.biases else 0
        return weights + biases + 2 * self._norm()


def padded_vocabulary(tokenizer_size: int, tensor_parallel: int) -> int:
    """``tokenizer_size`` rounded up to a multiple of 128 x tensor parallel ranks."""
    unit = VOCABULARY_MULTIPLE * tensor_parallel
    return -(-tokenizer_size // unit) * unit
