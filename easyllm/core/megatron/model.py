"""The only place that builds a GPTModel: from an architecture record, for a device."""

import importlib.util
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from easyllm.core.families.weights import Weights
from easyllm.core.megatron import weights
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.attention import TorchAttention
from easyllm.core.megatron.layers import ParallelResidualLayer, TorchNorm
from easyllm.core.megatron.layout import Layout
from easyllm.core.megatron.outside import finish_embedding, hide_padding, scale_rope
from easyllm.core.messages import say

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh")}


RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective"},  # the attention scores only
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}
"""What is thrown away after the forward pass and computed again in the backward pass, in Megatron's words."""


def transformer_config(
    a: Architecture, device: torch.device, layout: Layout, recompute: str = "none"
) -> TransformerConfig:
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
        add_qkv_bias=a.qkv_bias,
        qk_layernorm=a.qk_norm,
        layernorm_zero_centered_gamma=a.centered_norm,
        window_size=(a.window - 1, 0) if a.window else None,
        init_method=weights.not_yet,
        output_layer_init_method=weights.not_yet,
        hidden_dropout=a.dropout,
        attention_dropout=a.dropout,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
        context_parallel_size=layout.context,
        sequence_parallel=layout.sequence,
        params_dtype=getattr(torch, a.dtype),
        pipeline_dtype=getattr(torch, a.dtype),
        bf16=a.dtype == "bfloat16",
        fp16=a.dtype == "float16",
        use_cpu_initialization=device.type != "cuda",
        perform_initialization=device.type != "meta",
        batch_p2p_comm=device.type == "cuda",  # gloo has no batched sends
        attention_softmax_in_fp32=True,
        # CUDA kernels, all of them.
        gradient_accumulation_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        **RECOMPUTE[recompute],
    )


def choose_layers(device: torch.device, a: Architecture) -> tuple[str, str]:
    """``transformer_engine`` or ``local`` (Megatron's own torch layers), and why."""
    if device.type != "cuda":
        return "local", say("why_local_layers")
    if a.positions == "alibi" or a.parallel_residual:
        return "local", say("why_family_layers", family=a.family)
    if importlib.util.find_spec("transformer_engine"):
        return "transformer_engine", say("why_engine_layers")
    return "local", say("why_no_engine_layers")


def build_model(
    a: Architecture,
    device: torch.device,
    layout: Layout | None = None,
    seed: int = 0,
    recompute: str = "none",
    source: Weights | None = None,
) -> list[GPTModel]:
    """This rank's part of the model with its first weights, on ``device``: one chunk a virtual pipeline stage.

    The weights are drawn from ``seed``, or read from ``source`` (whole, under Megatron's names) tensor by tensor. On
    the meta device nothing fills them, nor are they moved there: the caller builds under accelerate's means for that.
    Megatron must be initialised for ``layout``.
    """
    layout = layout or Layout()
    config = transformer_config(a, device, layout, recompute)
    virtual = range(layout.virtual_pipeline) if layout.virtual_pipeline > 1 else [None]
    chunks = [_chunk(a, config, device, stage) for stage in virtual]
    for chunk in chunks:
        if source is not None:
            weights.fill(chunk, a, source)
        elif device.type != "meta":
            weights.draw(chunk, a, seed)
    return [chunk.to(device) if device.type == "cuda" else chunk for chunk in chunks]


def _chunk(a: Architecture, config: TransformerConfig, device: torch.device, virtual_stage: int | None) -> GPTModel:
    where = {"ignore_virtual": False, "vp_stage": virtual_stage}
    model = GPTModel(
        config,
        _layers(a, config, device, virtual_stage),
        vocab_size=a.padded_vocabulary,
        max_sequence_length=a.max_positions,
        pre_process=parallel_state.is_pipeline_first_stage(**where),
        post_process=parallel_state.is_pipeline_last_stage(**where),
        position_embedding_type="none" if a.positions == "alibi" else a.positions,  # ALiBi is the attention's
        rotary_base=a.rope_theta or 10000,
        rotary_percent=a.rope_share,
        share_embeddings_and_output_weights=a.tie_embeddings,
        vp_stage=virtual_stage,
    )
    finish_embedding(model, a)
    scale_rope(model, a)
    hide_padding(model, a)
    return model


def _layers(a: Architecture, config: TransformerConfig, device: torch.device, virtual_stage: int | None) -> Any:
    """What the layers of one chunk are made of."""
    if choose_layers(device, a)[0] == "transformer_engine":
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=a.qk_norm)
    layer = get_gpt_layer_local_spec(normalization=a.norm, qk_layernorm=a.qk_norm)
    if a.parallel_residual:
        layer.module = ParallelResidualLayer
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = ModuleSpec(
        TorchAttention, params={"alibi_heads": a.heads if a.positions == "alibi" else 0, "window": a.window}
    )
    if a.qk_norm:
        attention.q_layernorm = attention.k_layernorm = TorchNorm
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = TorchNorm
    count = get_num_layers_to_build(config, vp_stage=virtual_stage)
    return TransformerBlockSubmodules(layer_specs=[layer] * count, layer_norm=TorchNorm)
