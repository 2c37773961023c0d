"""What both sides of a merge are asked: plain prompts and rendered conversations."""

from typing import Any

import torch

from easyllm.core.chat import seal
from easyllm.core.parity import PROMPTS


def prompts(tokenizer: Any) -> list[list[int]]:
    """Token ids: the parity prompts, and the golden conversations, where an adapter shows most."""
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]
    return plain + [entry["ids"] for entry in seal(tokenizer)["golden"] if entry["ids"]]


def logits(model: Any, ids: list[list[int]]) -> list[torch.Tensor]:
    """One tensor [tokens, vocabulary] a prompt, cut to no less than the model gives."""
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([row])).logits[0].clone() for row in ids]
