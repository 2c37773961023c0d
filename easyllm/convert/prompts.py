"""The token ids on which both models must agree."""

from typing import Any

from easyllm.core.parity import PROMPTS

PASSAGE = (
    "An assignment statement evaluates the expression list and assigns the single resulting object to each of "
    "the target lists, from left to right. A name refers to an object; binding it again in the same block leaves "
    "the object as it was, and only when no name refers to it any longer may its storage be used for another."
)
"""Prose of the kind that a small corpus is made of: long enough to reach far positions."""
SPREAD_IDS = 256


def parity_ids(tokenizer: Any, tokenizer_size: int, max_positions: int) -> list[list[int]]:
    """Tokenised prompts and a passage, and ids spread over the whole vocabulary, each cut to ``max_positions``."""
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (*PROMPTS, PASSAGE)]
    count = min(SPREAD_IDS, max_positions, tokenizer_size)
    spread = [i * (tokenizer_size - 1) // max(count - 1, 1) for i in range(count)]
    return [ids[:max_positions] for ids in [*texts, spread]]
