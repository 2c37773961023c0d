"""From the recipe's model section and the corpus' vocabulary to the architecture record."""

from typing import Any

from easyllm.core.megatron.architecture import Architecture, padded_vocabulary
from easyllm.pretrain.config import Model, PretrainConfig

LLAMA_ROPE_THETA = 10000.0
OF_LLAMA_ONLY = ("kv_heads", "rope_theta")


def architecture_of(
    config: PretrainConfig, ledger: dict[str, Any], dtype: str = "float32", padded: int | None = None
) -> Architecture:
    """Every number of a new model, with the family's own values where the recipe leaves them open.

    ``ledger`` is the corpus' vocabulary ledger: tokenizer_size, special, eod_id. ``padded`` is the padded vocabulary
    of the checkpoints to go on from: another tensor parallel size alone would give another one, and another model.
    """
    model = config.model
    assert model is not None
    llama = model.family == "llama"
    tokenizer_size = int(ledger["tokenizer_size"])
    return Architecture(
        family=model.family,
        layers=model.layers,
        hidden=model.hidden,
        heads=model.heads,
        kv_heads=model.kv_heads or model.heads,
        head_dim=model.hidden // model.heads,
        ffn_hidden=ffn_hidden(model),
        norm="RMSNorm" if llama else "LayerNorm",
        norm_epsilon=model.norm_epsilon,
        positions="rope" if llama else "learned_absolute",
        rope_theta=(model.rope_theta or LLAMA_ROPE_THETA) if llama else None,
        max_positions=model.max_positions or config.sequence_tokens,
        tie_embeddings=bool(model.tie_embeddings) if llama else True,
        biases=not llama,
        gated=llama,
        activation="silu" if llama else "gelu_tanh",
        init_std=model.init_std,
        dropout=model.dropout,
        tokenizer_size=tokenizer_size,
        padded_vocabulary=padded or padded_vocabulary(tokenizer_size, config.parallel.tensor),
        tensor_parallel=config.parallel.tensor,
        dtype=dtype,
        special_ids=special_ids(ledger),
    )


def ffn_hidden(model: Model) -> int:
    """The feed-forward width: asked, or the family's."""
    if model.ffn_hidden:
        return model.ffn_hidden
    return -(-8 * model.hidden // (3 * 64)) * 64 if model.family == "llama" else 4 * model.hidden


def special_ids(ledger: dict[str, Any]) -> dict[str, int]:
    """``eod`` and every special token of the ledger, by name."""
    named = ledger.get("special") or {}
    return {"eod": int(ledger["eod_id"])} | {str(k): int(v) for k, v in named.items() if isinstance(v, int)}
