"""One table a family. Sources: the modelling files of transformers 5.23 and of Megatron-Core 0.16.1."""

from dataclasses import replace
from typing import Any

from easyllm.core.families.table import Family, Key, Rule


def _norm(megatron: str, hf: str) -> tuple[Rule, Rule]:
    """A LayerNorm has a weight and a bias."""
    return Rule(f"{megatron}.weight", (f"{hf}.weight",)), Rule(f"{megatron}.bias", (f"{hf}.bias",))


def _linear(megatron: str, hf: str, how: str = "copy") -> tuple[Rule, Rule]:
    """A linear layer with a bias; ``how`` is the weight's."""
    return Rule(f"{megatron}.weight", (f"{hf}.weight",), how), Rule(f"{megatron}.bias", (f"{hf}.bias",))


def _heads_wide(fields: dict[str, Any]) -> int:
    return int(fields["hidden"]) // int(fields["heads"])


def _as_many_as_heads(fields: dict[str, Any]) -> int:
    return int(fields["heads"])


def _four_times_hidden(fields: dict[str, Any]) -> int:
    return 4 * int(fields["hidden"])


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

LLAMA = Family(
    model_type="llama",
    hf_class="LlamaForCausalLM",
    config_class="LlamaConfig",
    layer="model.layers.{n}.",
    once=(
        Rule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), "vocabulary"),
        Rule("decoder.final_layernorm.weight", ("model.norm.weight",)),
        Rule("output_layer.weight", ("lm_head.weight",), "vocabulary", where="untied"),
    ),
    per_layer=(
        Rule("input_layernorm.weight", ("input_layernorm.weight",)),
        Rule("self_attention.linear_qkv.weight", tuple(f"{name}.weight" for name in QKV), "qkv"),
        Rule("self_attention.linear_qkv.bias", tuple(f"{name}.bias" for name in QKV), "qkv", where="qkv_bias"),
        Rule("self_attention.q_layernorm.weight", ("self_attn.q_norm.weight",), where="qk_norm"),
        Rule("self_attention.k_layernorm.weight", ("self_attn.k_norm.weight",), where="qk_norm"),
        Rule("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",)),
        Rule("pre_mlp_layernorm.weight", ("post_attention_layernorm.weight",)),
        Rule("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "gate_up"),
        Rule("mlp.linear_fc2.weight", ("mlp.down_proj.weight",)),
    ),
    fixed={"norm": "RMSNorm", "positions": "rope", "biases": False, "gated": True, "activation": "silu"},
    keys={
        "layers": Key("num_hidden_layers"),
        "hidden": Key("hidden_size"),
        "heads": Key("num_attention_heads"),
        "kv_heads": Key("num_key_value_heads", _as_many_as_heads),
        "head_dim": Key("head_dim", _heads_wide),
        "ffn_hidden": Key("intermediate_size"),
        "norm_epsilon": Key("rms_norm_eps", 1e-6),
        "max_positions": Key("max_position_embeddings", 2048),
        "tie_embeddings": Key("tie_word_embeddings", False),
        "init_std": Key("initializer_range", 0.02),
        "tokenizer_size": Key("vocab_size"),
    },
    only={"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)},
    dropouts=("attention_dropout",),
    rope=True,
    base_prefix="model.",
    ignored=(r".*rotary_emb\.inv_freq",),
)

MISTRAL = replace(
    LLAMA,
    model_type="mistral",
    hf_class="MistralForCausalLM",
    config_class="MistralConfig",
    keys={
        **LLAMA.keys,
        "kv_heads": Key("num_key_value_heads", 8),
        "max_positions": Key("max_position_embeddings", 131072),
        "window": Key("sliding_window", 4096),
    },
    only={"hidden_act": ("silu",)},
)

QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    hf_class="Qwen2ForCausalLM",
    config_class="Qwen2Config",
    fixed={**LLAMA.fixed, "qkv_bias": True},
    keys={**LLAMA.keys, "head_dim": Key(None, _heads_wide), "max_positions": Key("max_position_embeddings", 32768)},
    only={"hidden_act": ("silu",), "use_sliding_window": (False,)},
)

QWEN3 = replace(
    LLAMA,
    model_type="qwen3",
    hf_class="Qwen3ForCausalLM",
    config_class="Qwen3Config",
    fixed={**LLAMA.fixed, "qk_norm": True},
    keys={**LLAMA.keys, "head_dim": Key("head_dim", 128), "max_positions": Key("max_position_embeddings", 32768)},
    only={"hidden_act": ("silu",), "attention_bias": (False,), "use_sliding_window": (False,)},
)

GEMMA = replace(
    LLAMA,
    model_type="gemma",
    hf_class="GemmaForCausalLM",
    config_class="GemmaConfig",
    fixed={**LLAMA.fixed, "activation": "gelu_tanh", "embedding_scale": True, "centered_norm": True},
    keys={
        **LLAMA.keys,
        "head_dim": Key("head_dim", 256),
        "max_positions": Key("max_position_embeddings", 8192),
        "tie_embeddings": Key("tie_word_embeddings", True),
    },
    only={
        # The files of Gemma 1 say gelu and mean its tanh approximation; transformers reads them so.
        "hidden_act": ("gelu_pytorch_tanh", "gelu"),
        "hidden_activation": (None, "gelu_pytorch_tanh"),
        "attention_bias": (False,),
        "use_bidirectional_attention": (None, False),
    },
)

INTERNLM2 = replace(
    LLAMA,
    model_type="internlm2",
    once=(
        Rule("embedding.word_embeddings.weight", ("model.tok_embeddings.weight",), "vocabulary"),
        Rule("decoder.final_layernorm.weight", ("model.norm.weight",)),
        Rule("output_layer.weight", ("output.weight",), "vocabulary", where="untied"),
    ),
    per_layer=(
        Rule("input_layernorm.weight", ("attention_norm.weight",)),
        Rule("self_attention.linear_qkv.weight", ("attention.wqkv.weight",)),  # a group's q, k, v: Megatron's order
        Rule("self_attention.linear_proj.weight", ("attention.wo.weight",)),
        Rule("pre_mlp_layernorm.weight", ("ffn_norm.weight",)),
        Rule("mlp.linear_fc1.weight", ("feed_forward.w1.weight", "feed_forward.w3.weight"), "gate_up"),
        Rule("mlp.linear_fc2.weight", ("feed_forward.w2.weight",)),
    ),
    only={"hidden_act": ("silu",), "bias": (False,)},
    written_as="llama",
)

BAICHUAN = replace(
    LLAMA,
    model_type="baichuan",
    per_layer=tuple(
        Rule(rule.megatron, ("self_attn.W_pack.weight",), "qkv_joined") if rule.how == "qkv" else rule
        for rule in LLAMA.per_layer
        if rule.where is None
    ),
    # The 13B, with ALiBi, has no max_position_embeddings; Baichuan 2 norms the rows of its output layer.
    keys={**LLAMA.keys, "max_positions": Key("max_position_embeddings")},
    only={"hidden_act": ("silu",), "vocab_size": (64000,)},
    written_as="llama",
)

GPT2 = Family(
    model_type="gpt2",
    hf_class="GPT2LMHeadModel",
    config_class="GPT2Config",
    layer="transformer.h.{n}.",
    once=(
        Rule("embedding.word_embeddings.weight", ("transformer.wte.weight",), "vocabulary"),
        Rule("embedding.position_embeddings.weight", ("transformer.wpe.weight",)),
        *_norm("decoder.final_layernorm", "transformer.ln_f"),
    ),
    per_layer=(
        *_norm("input_layernorm", "ln_1"),
        Rule("self_attention.linear_qkv.weight", ("attn.c_attn.weight",), "qkv_conv1d"),
        Rule("self_attention.linear_qkv.bias", ("attn.c_attn.bias",), "qkv_joined"),
        *_linear("self_attention.linear_proj", "attn.c_proj", "conv1d"),
        *_norm("pre_mlp_layernorm", "ln_2"),
        *_linear("mlp.linear_fc1", "mlp.c_fc", "conv1d"),
        *_linear("mlp.linear_fc2", "mlp.c_proj", "conv1d"),
    ),
    fixed={
        "norm": "LayerNorm", "positions": "learned_absolute", "biases": True, "gated": False,
        "activation": "gelu_tanh", "tie_embeddings": True,
    },
    keys={
        "layers": Key("n_layer", 12),
        "hidden": Key("n_embd", 768),
        "heads": Key("n_head", 12),
        "kv_heads": Key(None, _as_many_as_heads),
        "head_dim": Key(None, _heads_wide),
        "ffn_hidden": Key("n_inner", _four_times_hidden),
        "norm_epsilon": Key("layer_norm_epsilon", 1e-5),
        "max_positions": Key("n_positions", 1024),
        "init_std": Key("initializer_range", 0.02),
        "tokenizer_size": Key("vocab_size", 50257),
    },
    only={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    base_prefix="transformer.",
    ignored=(r".*\.attn\.bias", r".*\.attn\.masked_bias"),
)  # fmt: skip

BLOOM = Family(
    model_type="bloom",
    hf_class="BloomForCausalLM",
    config_class="BloomConfig",
    layer="transformer.h.{n}.",
    once=(
        Rule("embedding.word_embeddings.weight", ("transformer.word_embeddings.weight",), "vocabulary"),
        *_norm("embedding.norm", "transformer.word_embeddings_layernorm"),
        *_norm("decoder.final_layernorm", "transformer.ln_f"),
    ),
    per_layer=(
        *_norm("input_layernorm", "input_layernorm"),
        *_linear("self_attention.linear_qkv", "self_attention.query_key_value"),  # a head's q, k, v: Megatron's order
        *_linear("self_attention.linear_proj", "self_attention.dense"),
        *_norm("pre_mlp_layernorm", "post_attention_layernorm"),
        *_linear("mlp.linear_fc1", "mlp.dense_h_to_4h"),
        *_linear("mlp.linear_fc2", "mlp.dense_4h_to_h"),
    ),
    fixed={
        "norm": "LayerNorm", "positions": "alibi", "biases": True, "gated": False, "activation": "gelu_tanh",
        "embedding_norm": True, "tie_embeddings": True,
    },
    keys={
        "layers": Key("n_layer", 2),
        "hidden": Key("hidden_size", 64),
        "heads": Key("n_head", 8),
        "kv_heads": Key(None, _as_many_as_heads),
        "head_dim": Key(None, _heads_wide),
        "ffn_hidden": Key(None, _four_times_hidden),
        "norm_epsilon": Key("layer_norm_epsilon", 1e-5),
        "max_positions": Key("seq_length", 2048),
        "init_std": Key("initializer_range", 0.02),
        "tokenizer_size": Key("vocab_size", 250880),
    },
    only={"apply_residual_connection_post_layernorm": (False,), "tie_word_embeddings": (True,)},
    dropouts=("hidden_dropout", "attention_dropout"),
    base_prefix="transformer.",
)  # fmt: skip

GPT_NEOX = Family(
    model_type="gpt_neox",
    hf_class="GPTNeoXForCausalLM",
    config_class="GPTNeoXConfig",
    layer="gpt_neox.layers.{n}.",
    once=(
        Rule("embedding.word_embeddings.weight", ("gpt_neox.embed_in.weight",), "vocabulary"),
        *_norm("decoder.final_layernorm", "gpt_neox.final_layer_norm"),
        Rule("output_layer.weight", ("embed_out.weight",), "vocabulary", where="untied"),
    ),
    per_layer=(
        *_norm("input_layernorm", "input_layernorm"),
        *_linear("self_attention.linear_qkv", "attention.query_key_value"),  # a head's q, k, v: Megatron's order
        *_linear("self_attention.linear_proj", "attention.dense"),
        *_norm("pre_mlp_layernorm", "post_attention_layernorm"),
        *_linear("mlp.linear_fc1", "mlp.dense_h_to_4h"),
        *_linear("mlp.linear_fc2", "mlp.dense_4h_to_h"),
    ),
    fixed={"norm": "LayerNorm", "positions": "rope", "biases": True, "gated": False, "activation": "gelu"},
    keys={
        "layers": Key("num_hidden_layers", 44),
        "hidden": Key("hidden_size", 6144),
        "heads": Key("num_attention_heads", 64),
        "kv_heads": Key(None, _as_many_as_heads),
        "head_dim": Key(None, _heads_wide),
        "ffn_hidden": Key("intermediate_size", 24576),
        "norm_epsilon": Key("layer_norm_eps", 1e-5),
        "max_positions": Key("max_position_embeddings", 2048),
        "tie_embeddings": Key("tie_word_embeddings", False),
        "init_std": Key("initializer_range", 0.02),
        "tokenizer_size": Key("vocab_size", 50432),
        "parallel_residual": Key("use_parallel_residual", True),
    },
    only={"hidden_act": ("gelu",), "attention_bias": (True,)},
    dropouts=("hidden_dropout", "attention_dropout"),
    rope=True,
    rope_share=0.25,
    base_prefix="gpt_neox.",
    ignored=(r".*\.attention\.bias", r".*\.attention\.masked_bias", r".*rotary_emb\.inv_freq"),
)

FAMILIES = {
    family.model_type: family
    for family in (LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, INTERNLM2, BAICHUAN, GPT2, BLOOM, GPT_NEOX)
}
"""By the model_type of config.json. Yi is a llama."""

NOT_EXPRESSED = {
    "gemma2": "norms behind attention and feed-forward, capped logits and scores, windows on every second layer",
    "gemma3": "norms behind attention and feed-forward, windows on five of six layers with a rope of their own",
    "gemma3_text": "norms behind attention and feed-forward, windows on five of six layers with a rope of their own",
    "mixtral": "experts",
    "qwen2_moe": "experts",
    "qwen3_moe": "experts",
    "deepseek_v2": "experts and latent attention",
    "deepseek_v3": "experts and latent attention",
    "phi3": "rope with long and short factors",
    "chatglm": "rope over pairs of neighbours",
}
"""What keeps well-known families out."""
