"""Facts of vocabularies that need no library: special tokens, sizes, and the dtype that holds the ids."""

from easyllm.core.artifact import Decision

END_OF_TEXT = "<|endoftext|>"
"""Ends every document; also the beginning-of-text token, as in GPT-2."""

PAD = "<|pad|>"
"""Never occurs in a corpus. A pad of its own keeps the end token trainable: masking pads must not mask it."""

SPECIAL_TOKENS = (END_OF_TEXT, PAD)
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def token_dtype(tokenizer_size: int) -> tuple[str, str]:
    """The dtype of tokens.bin, and why. The bound is Megatron's own, so that its builder writes the same bytes."""
    if tokenizer_size < 65_500:
        return "uint16", f"{tokenizer_size:,} ids fit two bytes"
    return "int32", f"{tokenizer_size:,} ids do not fit two bytes"


def dtype_bytes(dtype: str) -> int:
    return {"uint16": 2, "int32": 4}[dtype]


PLAIN_SPECIALS = Decision(
    "special tokens written inside a document",
    "plain text",
    "a document that quotes an end token must not end there, nor teach the model to",
)
