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
    """rope or learned_absolute, as Megatron calls them, or alibi."""
    rope_theta: float | None
    max_positions: int
    tie_embeddings: bool
    biases: bool
    gated: bool
    """Whether the feed-forward layer has a gate beside its up-projection (SwiGLU)."""
    activation: str
    """silu, gelu or gelu_tanh."""
    init_std: float
    dropout: float
    tokenizer_size: int
    """Rows that mean something: ids the tokenizer can give, or rows of the Hugging Face model it began as."""
    padded_vocabulary: int
    """Rows the model has. Those past ``tokenizer_size`` are zero and take no part in the softmax."""
    tensor_parallel: int
    """Ranks it was trained over; the weights do not depend on it."""
    dtype: str = "float32"
    special_ids: dict[str, int] = field(default_factory=dict)
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias though nothing else has (Qwen2)."""
    qk_norm: bool = False
    """Whether every head's query and key are normed (Qwen3)."""
    rope_share: float = 1.0
    """Share of a head's width that turns with the position (GPT-NeoX: 0.25)."""
    rope_scaling: dict[str, Any] | None = None
    """Hugging Face's rope_parameters without rope_theta, where rope_type is not default."""
    parallel_residual: bool = False
    """Whether attention and feed-forward read the same hidden state and are added at once (GPT-NeoX)."""
    embedding_norm: bool = False
    """Whether the embedding is normed before the first layer (Bloom)."""
    embedding_scale: bool = False
    """Whether the embedding is multiplied by the square root of the hidden width (Gemma)."""
    centered_norm: bool = False
    """Whether a norm multiplies by 1 + weight (Gemma)."""
    window: int | None = None
    """Tokens that a position sees, itself among them; None: all before it (Mistral's sliding window)."""

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
        norms = self._norm() * (2 if self.embedding_norm else 1)
        return embedding + learned + output + self.layers * self._layer() + norms

    def _norm(self) -> int:
        return self.hidden * (2 if self.norm == "LayerNorm" else 1)

    def _layer(self) -> int:
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        up = self.ffn_hidden * (2 if self.gated else 1)
        weights = self.hidden * (qkv + up + self.ffn_hidden + self.heads * self.head_dim)
        biases = qkv + up + 2 * self.hidden if self.biases else qkv if self.qkv_bias else 0
        norms = 2 * self._norm() + (2 * self.head_dim if self.qk_norm else 0)
        return weights + biases + norms


def padded_vocabulary(tokenizer_size: int, tensor_parallel: int) -> int:
    """``tokenizer_size`` rounded up to a multiple of 128 x tensor parallel ranks."""
    unit = VOCABULARY_MULTIPLE * tensor_parallel
    return -(-tokenizer_size // unit) * unit
