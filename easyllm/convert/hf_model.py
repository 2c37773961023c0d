"""What stands beside the weights in a Hugging Face directory."""

from pathlib import Path
from typing import Any

from easyllm.core.families.config import hf_config
from easyllm.core.families.tables import FAMILIES
from easyllm.core.megatron.architecture import Architecture


def special_ids(tokenizer: Any, architecture: Architecture) -> dict[str, int | None]:
    """The model's special ids, from its own tokenizer; generation ends with the end of a document."""
    known = architecture.special_ids
    if tokenizer is None:
        return {f"{name}_token_id": known.get(key) for name, key in (("bos", "bos"), ("eos", "eod"), ("pad", "pad"))}
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else known.get("eod")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": eos, "pad_token_id": pad}


def write_config(architecture: Architecture, dtype: str, tokenizer: Any, out: Path) -> None:
    """config.json, generation_config.json and, where there is a tokenizer, its files into ``out``."""
    import transformers

    family = FAMILIES[architecture.family]
    special = special_ids(tokenizer, architecture)
    said = {**hf_config(architecture), **special, "architectures": [family.hf_class], "dtype": dtype}
    getattr(transformers, family.config_class)(**said).save_pretrained(out)
    transformers.GenerationConfig(**special).save_pretrained(out)
    if tokenizer is not None:
        tokenizer.model_max_length = architecture.max_positions
        tokenizer.save_pretrained(out)
