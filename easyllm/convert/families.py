"""One table a family: which Megatron tensor becomes which Hugging Face tensors, and how. No torch here.

Megatron's names are those of its local layers at tensor parallel 1. ``how`` names a function of ``mapping``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from easyllm.core.megatron.architecture import Architecture


@dataclass(frozen=True)
class Rule:
    """One Megatron tensor and what becomes of it."""

    megatron: str
    hf: tuple[str, ...]
    how: str
    only_untied: bool = False
    """Whether the tensor exists only where output layer and embedding are not the same."""


@dataclass(frozen=True)
class Family:
    """A family's mapping: rules of the whole model, rules of a layer, and the Hugging Face configuration."""

    hf_class: str
    layer: str
    """Prefix of a layer's Hugging Face names; ``{n}`` is its index."""
    once: tuple[Rule, ...]
    per_layer: tuple[Rule, ...]
    config_class: str
    config: Callable[[Architecture], dict[str, Any]]
    """Keyword arguments of ``config_class``, special token ids apart."""


MEGATRON_LAYER = "decoder.layers.{n}."


def _norm(megatron: str, hf: str) -> tuple[Rule, Rule]:
    """A LayerNorm has a weight and a bias."""
    return (
        Rule(f"{megatron}.weight", (f"{hf}.weight",), "copy"),
        Rule(f"{megatron}.bias", (f"{hf}.bias",), "copy"),
    )


def _conv1d(megatron: str, hf: str) -> tuple[Rule, Rule]:
    """GPT-2's Conv1D stores its weight as [in, out]."""
    return (
        Rule(f"{megatron}.weight", (f"{hf}.weight",), "transpose"),
        Rule(f"{megatron}.bias", (f"{hf}.bias",), "copy"),
    )


def _llama_config(a: Architecture) -> dict[str, Any]:
    return {
        "vocab_size": a.tokenizer_size,
        "hidden_size": a.hidden,
        "intermediate_size": a.ffn_hidden,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": a.max_positions,
        "initializer_range": a.init_std,
        "rms_norm_eps": a.norm_epsilon,
        "tie_word_embeddings": a.tie_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": a.rope_theta},
        "attention_bias": False,
        "attention_dropout": a.dropout,
        "mlp_bias": False,
    }


def _gpt2_config(a: Architecture) -> dict[str, Any]:
    return {
        "vocab_size": a.tokenizer_size,
        "n_positions": a.max_positions,
        "n_embd": a.hidden,
        "n_layer": a.layers,
        "n_head": a.heads,
        "n_inner": a.ffn_hidden,
        "activation_function": "gelu_new",
        "resid_pdrop": a.dropout,
        "embd_pdrop": a.dropout,
        "attn_pdrop": a.dropout,
        "layer_norm_epsilon": a.norm_epsilon,
        "initializer_range": a.init_std,
        "tie_word_embeddings": True,
    }


FAMILIES: dict[str, Family] = {
    "llama": Family(
        hf_class="LlamaForCausalLM",
        config_class="LlamaConfig",
        config=_llama_config,
        layer="model.layers.{n}.",
        once=(
            Rule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), "unpad"),
            Rule("decoder.final_layernorm.weight", ("model.norm.weight",), "copy"),
            Rule("output_layer.weight", ("lm_head.weight",), "unpad", only_untied=True),
        ),
        per_layer=(
            Rule("input_layernorm.weight", ("input_layernorm.weight",), "copy"),
            Rule(
                "self_attention.linear_qkv.weight",
                ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
                "split_qkv",
            ),
            Rule("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), "copy"),
            Rule("pre_mlp_layernorm.weight", ("post_attention_layernorm.weight",), "copy"),
            Rule("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "split_gate_up"),
            Rule("mlp.linear_fc2.weight", ("mlp.down_proj.weight",), "copy"),
        ),
    ),
    "gpt2": Family(
        hf_class="GPT2LMHeadModel",
        config_class="GPT2Config",
        config=_gpt2_config,
        layer="transformer.h.{n}.",
        once=(
            Rule("embedding.word_embeddings.weight", ("transformer.wte.weight",), "unpad"),
            Rule("embedding.position_embeddings.weight", ("transformer.wpe.weight",), "copy"),
            *_norm("decoder.final_layernorm", "transformer.ln_f"),
        ),
        per_layer=(
            *_norm("input_layernorm", "ln_1"),
            Rule("self_attention.linear_qkv.weight", ("attn.c_attn.weight",), "join_qkv_transposed"),
            Rule("self_attention.linear_qkv.bias", ("attn.c_attn.bias",), "join_qkv"),
            *_conv1d("self_attention.linear_proj", "attn.c_proj"),
            *_norm("pre_mlp_layernorm", "ln_2"),
            *_conv1d("mlp.linear_fc1", "mlp.c_fc"),
            *_conv1d("mlp.linear_fc2", "mlp.c_proj"),
        ),
    ),
}
