"""Tiny random Hugging Face models of every family, with grouped queries and odd vocabularies, shaken all over."""

import json
from pathlib import Path
from typing import Any

VOCABULARY = 301
_LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
_ROPE3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA | {"head_dim": 16}),
    "llama-tied": ("llama", _LLAMA | {"tie_word_embeddings": True}),
    "llama3": ("llama", _LLAMA | {"rope_parameters": _ROPE3}),
    "llama-linear": (
        "llama",
        _LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "mistral": ("mistral", _LLAMA | {"sliding_window": 7}),
    "qwen2": ("qwen2", _LLAMA | {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", _LLAMA | {"head_dim": 16}),
    "gemma": ("gemma", _LLAMA | {"head_dim": 16}),
    "gpt2": (
        "gpt2",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": None,
         "eos_token_id": 0},
    ),
    "bloom": (
        "bloom",
        {"vocab_size": VOCABULARY, "hidden_size": 48, "n_layer": 2, "n_head": 6, "bos_token_id": None,
         "eos_token_id": 0, "seq_length": 128},
    ),
    "gpt_neox": (
        "gpt_neox",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": 0},
    ),
    "gpt_neox-serial": (
        "gpt_neox",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": 0,
         "use_parallel_residual": False},
    ),
}  # fmt: skip
"""Family and configuration of each case."""


def make_model(case: str, out: Path, dtype: str = "float32", seed: int = 0) -> Path:
    """Save the case's model into ``out``: weights of standard deviation 0.2, norms around 1, biases too.

    With the weights that a configuration draws, swapped norms, lost biases and small mistakes would hide.
    """
    import torch
    import transformers

    from easyllm.core.families.tables import FAMILIES

    family, said = CASES[case]
    torch.manual_seed(seed)
    config = getattr(transformers, FAMILIES[family].config_class)(**said)
    model = getattr(transformers, FAMILIES[family].hf_class)(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            around = 1.0 if weight.dim() == 1 and name.endswith("weight") and family != "gemma" else 0.0
            weight.normal_(around, 0.2)
    model.to(getattr(torch, dtype)).save_pretrained(out)
    return out


def read_config(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text("utf-8"))
    return found
