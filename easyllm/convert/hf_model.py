"""The Hugging Face side: written by stock classes, loaded again by stock code."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyllm.convert.families import FAMILIES
from easyllm.core.errors import StageFailed
from easyllm.core.megatron.architecture import Architecture

if TYPE_CHECKING:
    import torch


def special_ids(tokenizer: Any, architecture: Architecture) -> dict[str, int | None]:
    """The model's special ids, from its own tokenizer; generation ends with the end of a document."""
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else architecture.special_ids["eod"]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": eos, "pad_token_id": pad}


def write_model(tensors: "dict[str, torch.Tensor]", architecture: Architecture, tokenizer: Any, out: Path) -> None:
    """safetensors, config.json, generation_config.json and the tokenizer into ``out``."""
    import transformers

    family = FAMILIES[architecture.family]
    special = special_ids(tokenizer, architecture)
    config = getattr(transformers, family.config_class)(**family.config(architecture), **special)
    model = getattr(transformers, family.hf_class)(config)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    allowed = {"lm_head.weight"} if architecture.tie_embeddings else set()
    if unexpected or set(missing) - allowed:
        raise StageFailed(f"convert: {family.hf_class} misses {missing} and does not know {unexpected}")
    model.tie_weights()
    model.generation_config = transformers.GenerationConfig(**special)
    model.save_pretrained(out, safe_serialization=True)
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)  # the writer leaves 0600, and a server may run as somebody else
    tokenizer.model_max_length = architecture.max_positions
    tokenizer.save_pretrained(out)


def logits_of(directory: Path, prompts: list[list[int]]) -> "list[torch.Tensor]":
    """[tokens, vocabulary] a prompt, from the model that stock AutoModelForCausalLM loads out of ``directory``."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [model(torch.tensor([ids])).logits[0] for ids in prompts]
