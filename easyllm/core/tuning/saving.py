"""A tuned model as stock transformers and the servers load it: weights, tokenizer, template, generation config."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyllm.core.artifact import write_whole
from easyllm.core.chat import end_token_ids

if TYPE_CHECKING:
    import torch


def stored_dtype(directory: Path) -> "torch.dtype":
    """The precision in which the config of ``directory`` says its weights are kept."""
    import torch

    config = json.loads((directory / "config.json").read_text("utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    found: torch.dtype = getattr(torch, name)
    return found


def save_model(model: Any, tokenizer: Any, base: Path, out: Path) -> list[int]:
    """Weights and config of ``model``, and all that ``save_beside`` writes; gives the ids that end an answer."""
    from transformers import GenerationConfig

    model.config.use_cache = True
    model.generation_config = GenerationConfig()  # written by save_beside
    model.save_pretrained(out)
    return save_beside(tokenizer, base, out)


def save_adapter(model: Any, saved: list[str], out: Path) -> None:
    """The adapter as stock PEFT loads it; ``saved`` are the layers it trains whole."""
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # peft's empty model card
    (out / "adapter_model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    config = json.loads((out / "adapter_config.json").read_text("utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # peft writes a set, in another order each time
    # peft leaves a tied head out of the file, and then ties nothing when it loads embeddings called wte (GPT-2).
    config["modules_to_save"] = saved or None
    write_whole(out / "adapter_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def save_beside(tokenizer: Any, base: Path, out: Path) -> list[int]:
    """Tokenizer, template in both places and generation config beside the weights in ``out``.

    Gives the ids that end an answer. ``base`` is the directory whose generation settings are kept.
    """
    tokenizer.save_pretrained(out)
    _template_inside(out, tokenizer.chat_template)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone
    return _write_generation_config(base, out, tokenizer)


def _write_generation_config(base: Path, out: Path, tokenizer: Any) -> list[int]:
    """The base's file as it is, with every id that ends an answer; transformers would refuse an odd one to save."""
    path = base / "generation_config.json"
    values: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    ends = end_token_ids(tokenizer, values)
    values["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    if values.get("pad_token_id") is None:
        values["pad_token_id"] = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    write_whole(out / "generation_config.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    return ends


def _template_inside(out: Path, template: str) -> None:
    """huggingface/text-generation-inference#3247: that server reads tokenizer_config.json, never the .jinja file."""
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8")) | {"chat_template": template}
    write_whole(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
