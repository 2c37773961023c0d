"""Parts of a layer that Megatron-Core has not, or chooses otherwise."""

from typing import Any

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer


class TorchNorm:
    """torch's norm for the local layers, named so that Megatron does not choose.

    Left to itself it takes apex's as soon as apex can be imported (LayerNormImpl in transformer_block.py, LNImpl in
    models/backends.py), which knows neither RMSNorm nor the CPU; and its wrapper of torch's refuses sequence
    parallelism.
    There each tensor parallel rank norms its part of the tokens, so the weights' gradients are summed over those
    ranks; Megatron does that for every weight that carries the mark.
    """

    def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float, **_: Any) -> Any:
        norm: torch.nn.Module
        if config.layernorm_zero_centered_gamma:
            norm = CenteredRMSNorm(hidden_size, eps, config.params_dtype)
        else:
            kind = torch.nn.RMSNorm if config.normalization == "RMSNorm" else torch.nn.LayerNorm
            norm = kind(hidden_size, eps=eps, dtype=config.params_dtype)
        for weight in norm.parameters():
            weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]  # Megatron's mark
        return norm


class CenteredRMSNorm(torch.nn.Module):
    """RMSNorm that multiplies by 1 + weight, in fp32 (Gemma)."""

    def __init__(self, width: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(width, dtype=dtype))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] to the same."""
        normed = torch.nn.functional.rms_norm(hidden.float(), (hidden.shape[-1],), 1.0 + self.weight.float(), self.eps)
        return normed.to(hidden.dtype)


class ParallelResidualLayer(TransformerLayer):  # type: ignore[misc]  # megatron.core is untyped
    """x + attention(norm(x)) + feed-forward(norm'(x)): GPT-NeoX's layer, whose two halves read the same x."""

    def forward(self, hidden_states: torch.Tensor, **asked: Any) -> tuple[torch.Tensor, Any]:
        """[tokens, micro, hidden] and the context, as Megatron's own layer gives them."""
        asked.pop("dynamic_inference_decode_only", None)
        attended, context = self._forward_attention(hidden_states, **asked)
        fed = self.mlp(self._forward_pre_mlp_layernorm(hidden_states))
        return self._forward_post_mlp(fed, attended), context
