"""What both sides of a merge are asked: plain prompts and rendered conversations."""

from typing import Any

import torch
from transformers import GenerationConfig

from easyllm.core.chat import seal
from easyllm.core.parity import PROMPTS

ANSWER_TOKENS = 32


def prompts(tokenizer: Any) -> list[list[int]]:
    """Token ids: the parity prompts, and the golden conversations, where an adapter shows most."""
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]
    return plain + [entry["ids"] for entry in seal(tokenizer)["golden"] if entry["ids"]]


def logits(model: Any, ids: list[list[int]]) -> list[torch.Tensor]:
    """One tensor [tokens, vocabulary] a prompt, cut to no less than the model gives."""
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([row], device=model.device)).logits[0].float().cpu() for row in ids]


def answers(model: Any, tokenizer: Any) -> list[list[int]]:
    """32 greedy tokens after every golden conversation that waits for an answer; no token ends one early."""
    rows = [entry["ids"] for entry in seal(tokenizer)["golden"] if entry["ids"] and entry["add_generation_prompt"]]
    most = getattr(model.config, "max_position_embeddings", None)
    # The model's own settings would fill every gap in ours: an end token, a penalty for repetition.
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=ANSWER_TOKENS, pad_token_id=0)
    found = []
    for row in rows:
        if most is None or len(row) + ANSWER_TOKENS <= most:
            ids = torch.tensor([row], device=model.device)
            with torch.inference_mode():
                made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
            found.append(made[0, len(row) :].tolist())
    return found
