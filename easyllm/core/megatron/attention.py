"""Attention of the local layers: torch's own fused kernels, where Megatron's local ones write every score out."""

import math
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import scaled_dot_product_attention


class TorchAttention(MegatronModule):
    """Causal attention over this rank's heads; stands where Megatron's DotProductAttention does and has no weights.

    ``alibi_heads``: heads of the whole model, where positions are ALiBi (arXiv:2108.12409), else 0. ``window``:
    tokens that a position sees, itself among them.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        alibi_heads: int = 0,
        window: int | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        assert attn_mask_type == AttnMaskType.causal
        self._scale = 1 / math.sqrt(config.kv_channels)
        self._alibi_heads, self._window = alibi_heads, window

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None = None, **_: Any
    ) -> torch.Tensor:
        """[tokens, micro, heads x width] of query [tokens, micro, heads, width] and its groups' keys and values."""
        assert attention_mask is None
        group = query.shape[2] // key.shape[2]
        # Heads in the same order as Megatron's: a group's query heads stand together.
        q, k, v = (part.permute(1, 2, 0, 3) for part in (query, _repeated(key, group), _repeated(value, group)))
        dropout = self.config.attention_dropout if self.training else 0.0
        # Each tensor parallel rank has other heads, and drops by numbers of its own.
        own = dropout > 0 and not self.config.sequence_parallel
        seen = self._seen(query)
        with tensor_parallel.get_cuda_rng_tracker().fork() if own else nullcontext():
            out = scaled_dot_product_attention(
                q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=seen is None, scale=self._scale
            )
        return out.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)

    def _seen(self, query: torch.Tensor) -> torch.Tensor | None:
        """What is added to the scores, or which of them count; None where all before a position do."""
        tokens, heads = query.shape[0], query.shape[2]
        if self._alibi_heads:
            first = parallel_state.get_tensor_model_parallel_rank() * heads
            return _alibi(self._alibi_heads, tokens, query.dtype, query.device)[first : first + heads]
        if self._window and tokens > self._window:
            return _windowed(tokens, self._window, query.device)
        return None


@lru_cache(maxsize=2)  # training and validation have one length each; all layers share it
def _alibi(heads: int, tokens: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[heads, tokens, tokens]: a slope a head times the key's position, as transformers has it; no key to come."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    real = torch.ones(1, tokens, dtype=torch.long, device=device)
    bias: torch.Tensor = build_alibi_tensor(real, heads, dtype)  # [heads, 1, tokens]
    hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=device).triu(1)
    return bias.expand(-1, tokens, -1).masked_fill(hidden, torch.finfo(dtype).min)


@lru_cache(maxsize=2)
def _windowed(tokens: int, window: int, device: torch.device) -> torch.Tensor:
    """[tokens, tokens], true where a position (row) sees a key."""
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    return seen.tril().triu(1 - window)


def _repeated(part: torch.Tensor, group: int) -> torch.Tensor:
    return part if group == 1 else part.repeat_interleave(group, dim=2)
