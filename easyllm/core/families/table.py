"""What a family's table is made of. No torch here.

Megatron's names are those of its local layers at tensor parallel 1. ``how`` names a pair of functions of ``mapping``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REQUIRED = object()
"""The default of a key that every config.json has."""
MEGATRON_LAYER = "decoder.layers.{n}."
FUSED_NORMS = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
}
"""Transformer Engine holds a norm with the layer behind it. Checkpoints have its name, whichever layers wrote them."""


@dataclass(frozen=True)
class Rule:
    """One Megatron tensor and the Hugging Face tensors that hold the same numbers."""

    megatron: str
    hf: tuple[str, ...]
    how: str = "copy"
    where: str | None = None
    """A flag of the architecture (``untied`` beside its fields) without which the tensor does not exist."""


@dataclass(frozen=True)
class Key:
    """A key of config.json that holds one field of the architecture."""

    name: str | None
    """None: config.json has no key for it."""
    default: Any = REQUIRED
    """Where the file leaves the key out: a value, or a function of the fields known by then."""


@dataclass(frozen=True)
class Family:
    """One architecture of Hugging Face in Megatron's words."""

    model_type: str
    """As config.json says it."""
    hf_class: str
    config_class: str
    layer: str
    """Prefix of a layer's Hugging Face names; ``{n}`` is its index."""
    once: tuple[Rule, ...]
    per_layer: tuple[Rule, ...]
    fixed: Mapping[str, Any]
    """Fields of the architecture that are the same for every model of the family."""
    keys: Mapping[str, Key]
    """Fields of the architecture that config.json says."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Keys of config.json whose other values Megatron-Core's model cannot express, and the values that it can.
    The first one is what a file without the key means."""
    dropouts: tuple[str, ...] = ()
    """Keys of config.json that a model's dropout is written to; what a file says there is not read."""
    rope: bool = False
    """Whether config.json has rope_parameters (or, before transformers 5, rope_theta and rope_scaling)."""
    rope_share: float = 1.0
    """Share of a head's width that turns, where config.json does not say it."""
    base_prefix: str = ""
    """Prefix that files of the bare model leave out (``transformer.``)."""
    ignored: tuple[str, ...] = ()
    """Regular expressions of tensors that old files carry and that hold no weights."""
    written_as: str | None = None
    """The family whose files are written in its place: stock transformers has no class of this one."""
