"""What can be asked of conversion."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from easyllm.core.inputs import Takes
from easyllm.core.section import Section

HALVES = ("bf16", "fp16")
"""dtypes of two bytes."""


class ConvertConfig(Section):
    """A Megatron checkpoint to a model that stock transformers loads, or such a model to a Megatron checkpoint;
    proven by equal logits."""

    to: Literal["hf", "megatron"] = "hf"
    """hf: a Hugging Face directory (safetensors, config.json, generation_config.json, tokenizer).
    megatron: a distributed checkpoint (torch_dist) that any layout loads."""
    checkpoint: Annotated[str | None, Takes("artifact", "checkpoint", foreign=True)] = None
    """With to: hf. The checkpoint: a stage, the directory of a checkpoint artifact, or one that Megatron-LM has
    written (torch_dist, or one file a rank). Unset: pretrain."""
    model: Annotated[str | None, Takes("model", "model")] = None
    """With to: megatron. The model: a stage, a directory of safetensors, hf:org/name, modelscope:org/name,
    a .gguf file or package:NAME."""
    tokenizer: Annotated[str | None, Takes("model")] = None
    """With to: hf. The tokenizer of a checkpoint that carries none: a directory, hf:org/name or package:NAME. Its
    size says which rows of the vocabulary mean something."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """In which the weights are written. auto: as they are stored."""
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """With to: megatron. The vocabulary is padded to a multiple of 128 x this; every smaller layout loads it too."""
    shard_mb: Annotated[int, Field(ge=1)] = 2000
    """With to: hf. Largest file of weights, in 10^6 bytes; conversion holds one in memory."""

    @model_validator(mode="before")
    @classmethod
    def _pretrain_unless_told(cls, said: Any) -> Any:
        if isinstance(said, dict) and said.get("to", "hf") == "hf" and "checkpoint" not in said:
            return {**said, "checkpoint": "pretrain"}
        return said
