"""Facts of vocabularies that need no library: special tokens, sizes, and the dtype that holds the ids."""

from easyllm.core.artifact import Decision
from easyllm.core.messages import say

END_OF_TEXT = "<|endoftext|>"
"""Ends every document; also the beginning-of-text token, as in GPT-2."""

PAD = "<|pad|>"
"""Never occurs in a corpus. A pad of its own keeps the end token trainable: masking pads must not mask it."""

SPECIAL_TOKENS = (END_OF_TEXT, PAD)
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def token_dtype(tokenizer_size: int) -> tuple[str, str]:
    """The dtype of tokens.bin, and why. The bound is Megatron's own, so that its builder writes the same bytes."""
    if tokenizer_size < 65_500:
        return "uint16", say("why_two_bytes", ids=tokenizer_size)
    return "int32", say("why_four_bytes", ids=tokenizer_size)


def dtype_bytes(dtype: str) -> int:
    return {"uint16": 2, "int32": 4}[dtype]


def plain_specials() -> Decision:
    """Special tokens written inside a document are text like any other."""
    return Decision("special tokens written inside a document", say("plain_text"), say("why_plain_specials"))
