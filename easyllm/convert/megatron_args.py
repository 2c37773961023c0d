"""Megatron-LM's arguments become an architecture record, and a record such arguments. No torch here.

A checkpoint that Megatron-LM wrote carries the namespace of the run's arguments and no other word on its model.
"""

from argparse import Namespace
from dataclasses import MISSING, fields, replace
from typing import Any

from easyllm.core.families.table import Family
from easyllm.core.families.tables import FAMILIES
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.messages import say

HARMLESS: dict[str, tuple[Any, ...]] = {
    "num_experts": (None, 0), "multi_latent_attention": (None, False), "mtp_num_layers": (None, 0),
    "hybrid_layer_pattern": (None, ""), "hybrid_override_pattern": (None, ""),
    "heterogeneous_layers_config_path": (None,), "experimental_attention_variant": (None,),
    "linear_attention_freq": (None,), "attention_output_gate": (None, False),
    "apply_residual_connection_post_layernorm": (None, False), "squared_relu": (None, False),
    "quick_geglu": (None, False), "qk_l2_norm": (None, False), "rotary_interleaved": (None, False),
    "no_rope_freq": (None, 0), "window_attn_skip_freq": (None,), "softmax_type": (None, "vanilla"),
    "softmax_scale": (None,), "activation_func_clamp_value": (None,), "glu_linear_offset": (None, 0),
    "use_mup": (None, False), "add_position_embedding": (None, True), "retro_add_retriever": (None, False),
    "position_embedding_type": (None, "learned_absolute", "rope"),
}  # fmt: skip
"""Arguments whose other values make a model that is not one of ours."""
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What Megatron's ``use_rope_scaling`` fixes."""
FREE = frozenset(
    {"family", "layers", "hidden", "heads", "kv_heads", "head_dim", "rope_theta", "rope_scaling", "rope_share",
     "max_positions", "init_std", "dropout", "tokenizer_size", "padded_vocabulary", "tensor_parallel", "dtype",
     "special_ids"}
)  # fmt: skip
"""Fields that do not choose between families, or are looked at by themselves."""


class NotOurs(Exception):
    """A model that cannot be expressed: ``name`` and ``value`` of the argument that says so."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__(f"{name}={value!r}")
        self.name, self.value = name, value


class NoFamily(Exception):
    """A model that no family of Hugging Face says; the argument describes it."""


class Arguments:
    """The namespace's values, and which ones it did not have."""

    def __init__(self, namespace: Namespace) -> None:
        self._said = vars(namespace)
        self.missing: list[str] = []

    def get(self, name: str, default: Any) -> Any:
        """Megatron's ``default`` where the argument is not there or not set."""
        if name not in self._said:
            self.missing.append(name)
        value = self._said.get(name)
        return default if value is None else value

    def quietly(self, name: str, default: Any = None) -> Any:
        """The same for what older versions did not have: there the default is what the model was."""
        value = self._said.get(name)
        return default if value is None else value


def architecture_of_arguments(namespace: Namespace, padded: int, dtype: str) -> tuple[Architecture, list[str]]:
    """The record, and in words what was inferred. ``padded`` and ``dtype`` are the embedding's.

    Rows that mean something are as many as the arguments say, or all. Raises NotOurs and NoFamily.
    """
    args = Arguments(namespace)
    for name, harmless in HARMLESS.items():
        if args.quietly(name) not in harmless:
            raise NotOurs(name, args.quietly(name))
    found = _layers(args) | _positions(args) | _switches(args) | _rest(args, padded, dtype)
    family = next((f for f in FAMILIES.values() if f.written_as is None and says(f, found)), None)
    if family is None:
        raise NoFamily(_described(found))
    a = Architecture(family=family.model_type, **found)
    return a, [_sizes(a), say("inferred_family", family=a.family, hf_class=family.hf_class), *_defaults(args)]


def _layers(args: Arguments) -> dict[str, Any]:
    hidden, heads = int(args.get("hidden_size", 0)), int(args.get("num_attention_heads", 0))
    layers = int(args.quietly("num_layers") or args.quietly("encoder_num_layers", 0))
    for name, value in (("hidden_size", hidden), ("num_attention_heads", heads), ("num_layers", layers)):
        if not value:
            raise NotOurs(name, None)
    groups = args.quietly("num_query_groups", heads) if args.quietly("group_query_attention", False) else heads
    return {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": int(groups),
        "head_dim": int(args.quietly("kv_channels", hidden // heads)),
        "ffn_hidden": int(args.quietly("ffn_hidden_size", 4 * hidden)),
    }


def _positions(args: Arguments) -> dict[str, Any]:
    old = "rope" if args.quietly("use_rotary_position_embeddings", False) else "learned_absolute"
    kind = args.quietly("position_embedding_type", old)
    kind = "rope" if old == "rope" else kind
    found = {"positions": kind, "max_positions": int(args.get("max_position_embeddings", 0))}
    window = args.quietly("window_size")
    found["window"] = int(window[0]) + 1 if window and window[0] >= 0 else None
    if kind != "rope":
        return found | {"rope_theta": None}
    scaling = None
    if args.quietly("use_rope_scaling", False):
        scaling = {"rope_type": "llama3", "factor": float(args.quietly("rope_scaling_factor", 8.0)), **LLAMA3}
    elif args.quietly("rotary_seq_len_interpolation_factor"):
        scaling = {"rope_type": "linear", "factor": float(args.quietly("rotary_seq_len_interpolation_factor"))}
    theta, share = float(args.quietly("rotary_base", 10000)), float(args.quietly("rotary_percent", 1.0))
    return found | {"rope_theta": theta, "rope_share": share, "rope_scaling": scaling}


def _switches(args: Arguments) -> dict[str, Any]:
    gated = bool(args.quietly("swiglu", False))
    # Megatron's fused GELU is the one by tanh, and the other one is not.
    tanh = args.quietly("bias_gelu_fusion", True) or args.quietly("openai_gelu", False)
    biases = bool(args.quietly("add_bias_linear", not args.quietly("disable_bias_linear", False)))
    return {
        "norm": args.quietly("normalization", "LayerNorm"),
        "norm_epsilon": float(args.quietly("norm_epsilon", args.quietly("layernorm_epsilon", 1e-5))),
        "centered_norm": bool(args.quietly("apply_layernorm_1p", False)),
        "gated": gated,
        "activation": "silu" if gated else "gelu_tanh" if tanh else "gelu",
        "biases": biases,
        "qkv_bias": bool(args.quietly("add_qkv_bias", False)) and not biases,
        "qk_norm": bool(args.quietly("qk_layernorm", False)),
        "tie_embeddings": not args.quietly("untie_embeddings_and_output_weights", False),
    }


def _rest(args: Arguments, padded: int, dtype: str) -> dict[str, Any]:
    rows = args.quietly("vocab_size")
    # The null tokenizer's end of a document comes behind its vocabulary.
    rows = rows + 1 if rows and args.quietly("tokenizer_type") == "NullTokenizer" else rows
    return {
        "init_std": float(args.quietly("init_method_std", 0.02)),
        "dropout": float(args.quietly("hidden_dropout", 0.1)),
        "tokenizer_size": min(int(rows), padded) if rows else padded,
        "padded_vocabulary": padded,
        "tensor_parallel": int(args.quietly("tensor_model_parallel_size", 1)),
        "dtype": dtype,
    }


def says(family: Family, found: dict[str, Any]) -> bool:
    """Whether ``family``'s config.json can say the model whose architecture has the fields ``found``."""
    for name, value in family.fixed.items():
        if found.get(name, _default(name)) != value:
            return False
    for name, key in family.keys.items():
        if key.name is None and found.get(name) != key.default(found):
            return False
    rope = found["positions"] == "rope"
    if rope != family.rope or (rope and family.rope_share == 1.0 and found["rope_share"] != 1.0):
        return False
    open_fields = {f.name for f in fields(Architecture)} - FREE - set(family.fixed) - set(family.keys)
    return all(found.get(name, _default(name)) == _default(name) for name in open_fields)


def _default(name: str) -> Any:
    """A field's value in a model that has nothing special; None for one that every model says."""
    [default] = [f.default for f in fields(Architecture) if f.name == name]
    return None if default is MISSING else default


def _sizes(a: Architecture) -> str:
    return say(
        "inferred_sizes", layers=a.layers, hidden=a.hidden, heads=a.heads, kv_heads=a.kv_heads, head_dim=a.head_dim,
        ffn_hidden=a.ffn_hidden, positions=a.positions, max_positions=a.max_positions, rope_theta=a.rope_theta,
    )  # fmt: skip


def _described(found: dict[str, Any]) -> str:
    told = {name: found.get(name) for name in ("norm", "positions", "activation", "gated", "biases", "tie_embeddings")}
    special = {
        name: found[name]
        for name in ("qkv_bias", "qk_norm", "centered_norm", "window", "rope_share")
        if found.get(name, _default(name)) != _default(name)
    }
    return ", ".join(f"{name} {value}" for name, value in {**told, **special}.items())


def _defaults(args: Arguments) -> list[str]:
    return [say("inferred_defaults", names=", ".join(args.missing))] if args.missing else []


def arguments_of(a: Architecture) -> Namespace | None:
    """Arguments that mean this very model to Megatron-LM; None where it has no words for it (ALiBi, say)."""
    said = Namespace(**_said_of(a))
    try:
        read, _ = architecture_of_arguments(said, a.padded_vocabulary, a.dtype)
    except (NotOurs, NoFamily):
        return None
    return said if replace(read, special_ids=a.special_ids, tensor_parallel=a.tensor_parallel) == a else None


def _said_of(a: Architecture) -> dict[str, Any]:
    scaling = a.rope_scaling or {}
    return {
        "num_layers": a.layers,
        "hidden_size": a.hidden,
        "ffn_hidden_size": a.ffn_hidden,
        "num_attention_heads": a.heads,
        "group_query_attention": a.kv_heads != a.heads,
        "num_query_groups": a.kv_heads,
        "kv_channels": a.head_dim,
        "max_position_embeddings": a.max_positions,
        "seq_length": a.max_positions,
        "position_embedding_type": a.positions,
        "use_rope_scaling": scaling.get("rope_type") == "llama3",
        "rope_scaling_factor": scaling.get("factor", 8.0),
        "rotary_seq_len_interpolation_factor": scaling.get("factor") if scaling.get("rope_type") == "linear" else None,
        "rotary_base": a.rope_theta or 10000,
        "rotary_percent": a.rope_share,
        "normalization": a.norm,
        "norm_epsilon": a.norm_epsilon,
        "apply_layernorm_1p": a.centered_norm,
        "swiglu": a.gated and a.activation == "silu",
        "bias_gelu_fusion": a.activation == "gelu_tanh",
        "add_bias_linear": a.biases,
        "add_qkv_bias": a.qkv_bias,
        "qk_layernorm": a.qk_norm,
        "untie_embeddings_and_output_weights": not a.tie_embeddings,
        "window_size": (a.window - 1, 0) if a.window else None,
        "vocab_size": a.tokenizer_size,
        "padded_vocab_size": a.padded_vocabulary,
        "hidden_dropout": a.dropout,
        "attention_dropout": a.dropout,
        "init_method_std": a.init_std,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
    }
