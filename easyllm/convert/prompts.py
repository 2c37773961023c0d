"""The token ids on which both models must agree."""

from typing import Any

from easyllm.core.parity import PROMPTS

PASSAGE = (
    "An assignment statement evaluates the expression list and assigns the single resulting object to each of "
    "the target lists, from left to right. A name refers to an object; binding it again in the same block leaves "
    "the object as it was, and only when no name refers to it any longer may its storage be used for another."
)
"""Prose of the kind that a small corpus is made of."""
SPREAD_IDS = 64


def parity_ids(tokenizer: Any | None, tokenizer_size: int, max_positions: int) -> list[list[int]]:
    """Tokenised prompts and a passage, where there is a tokenizer, and ids spread over the whole vocabulary.

    They follow one another in rows of ``max_positions``, most often one: it reaches positions further out than each
    of them would, nothing in it is padding, and every logit of it depends on all that stands before.
    """
    ids: list[int] = []
    if tokenizer is not None:
        for text in (*PROMPTS, PASSAGE):
            ids += tokenizer(text, add_special_tokens=False)["input_ids"]
    known = [id_ for id_ in ids if id_ < tokenizer_size]  # a tokenizer may have more than the model has rows for
    count = min(SPREAD_IDS, tokenizer_size)
    stream = known + [i * (tokenizer_size - 1) // max(count - 1, 1) for i in range(count)]
    return [stream[start : start + max_positions] for start in range(0, len(stream), max_positions)]
