"""What can be asked of conversion."""

from typing import Annotated, Literal

from easyllm.core.inputs import Takes
from easyllm.core.section import Section


class ConvertConfig(Section):
    """Megatron checkpoint to a model that stock transformers loads, proven by equal logits."""

    checkpoint: Annotated[str, Takes("artifact", "checkpoint")] = "pretrain"
    """The checkpoint: a stage, or the directory of a checkpoint artifact."""
    to: Literal["hf"] = "hf"
    """hf: a Hugging Face directory (safetensors, config.json, generation_config.json, tokenizer)."""
