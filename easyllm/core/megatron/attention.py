"""Attention of the local layers: torch's own fused kernels, where Megatron's local ones write every score out."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.functional import scaled_dot_product_attention


class TorchAttention(MegatronModule):
    """Causal attention over this rank's heads; stands where Megatron's DotProductAttention does and has no weights."""

    def __init__(self, config: TransformerConfig, layer_number: int, attn_mask_type: AttnMaskType, **_: Any) -> None:
        super().__init__(config=config)
        assert attn_mask_type == AttnMaskType.causal
        self._scale = 1 / math.sqrt(config.kv_channels)

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
        with tensor_parallel.get_cuda_rng_tracker().fork() if own else nullcontext():
            out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=self._scale)
        return out.permute(2, 0, 1, 3).reshape(query.shape[0], query.shape[1], -1)


def _repeated(part: torch.Tensor, group: int) -> torch.Tensor:
    return part if group == 1 else part.repeat_interleave(group, dim=2)
