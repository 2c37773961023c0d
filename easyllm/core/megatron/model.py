"""The only place that builds a GPTModel: from an architecture record, for a device."""

import importlib.util
from functools import partial

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig

from easyllm.core.megatron.architecture import Architecture
from easyllm.core.messages import say

ACTIVATIONS = {"silu": F.silu, "gelu_tanh": partial(F.gelu, approximate="tanh")}


def transformer_config(a: Architecture, device: torch.device, tensor: int) -> TransformerConfig:
    """Megatron's configuration; every default of its own that would change the result is set here."""
    return TransformerConfig(
        num_layers=a.layers,
        hidden_size=a.hidden,
        num_attention_heads=a.heads,
        num_query_groups=a.kv_heads,
        kv_channels=a.head_dim,
        ffn_hidden_size=a.ffn_hidden,
        normalization=a.norm,
        layernorm_epsilon=a.norm_epsilon,
        gated_linear_unit=a.gated,
        activation_func=ACTIVATIONS[a.activation],
        add_bias_linear=a.biases,
        add_qkv_bias=False,
        init_method_std=a.init_std,
        hidden_dropout=a.dropout,
        attention_dropout=a.dropout,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=1,
        params_dtype=getattr(torch, a.dtype),
        pipeline_dtype=getattr(torch, a.dtype),
        # On the CPU each rank draws the whole matrix and keeps its part, so every tensor parallel size starts equal.
        use_cpu_initialization=device.type == "cpu",
        attention_softmax_in_fp32=True,
        # CUDA kernels, all of them.
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
    )


def choose_layers(device: torch.device) -> tuple[str, str]:
    """``transformer_engine`` or ``local`` (Megatron's own torch layers), and why."""
    if device.type == "cpu":
        return "local", say("why_local_layers")
    if importlib.util.find_spec("transformer_engine"):
        return "transformer_engine", say("why_engine_layers")
    return "local", say("why_no_engine_layers")


def local_layers(a: Architecture) -> TransformerBlockSubmodules:
    """Megatron's own torch layers, with torch's norms.

    Left to itself Megatron takes apex's norm as soon as apex can be imported (LayerNormImpl in transformer_block.py,
    LNImpl in models/backends.py), and that one knows neither RMSNorm nor the CPU.
    """
    layer = get_gpt_layer_local_spec(normalization=a.norm)
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = WrappedTorchNorm
    return TransformerBlockSubmodules(layer_specs=[layer] * a.layers, layer_norm=WrappedTorchNorm)


def build_model(a: Architecture, device: torch.device, tensor: int) -> GPTModel:
    """The model with fresh weights on ``device``, its part of ``tensor`` ranks. Megatron must be initialised."""
    if choose_layers(device)[0] == "transformer_engine":
        spec = get_gpt_layer_with_transformer_engine_spec()
    else:
        spec = local_layers(a)
    model = GPTModel(
        transformer_config(a, device, tensor),
        spec,
        vocab_size=a.padded_vocabulary,
        max_sequence_length=a.max_positions,
        position_embedding_type=a.positions,
        rotary_base=a.rope_theta or 10000,
        share_embeddings_and_output_weights=a.tie_embeddings,
    )
    return model.to(device) if device.type == "cuda" else model
