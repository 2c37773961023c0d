"""A text as filters count and compare it."""

import unicodedata

import regex

from easyllm.core.languages import words

_SYMBOL = regex.compile(r"\p{S}")


def tokens_of(text: str) -> list[str]:
    """Lower-case words without punctuation; in Chinese, Japanese, Thai and the like every character is one.

    For English these are rouge_score's tokens, letter for letter. Mixed text is both in its order: ``用 Python 写``
    is 用, python, 写. rouge_score itself deletes what is not ASCII, so that two Chinese texts never look alike to it.
    """
    return words(unicodedata.normalize("NFKC", text).lower().replace("_", " "))


def units_of(text: str) -> int:
    """How long a text is, in those; a text of symbols alone is 1 long."""
    return len(tokens_of(text)) or int(bool(text.strip()))


def same_key(text: str) -> str:
    """Equal for two texts that differ in width, case, spaces and punctuation alone; C and C++ are two."""
    symbols = _SYMBOL.sub(lambda found: f" {found[0]} ", unicodedata.normalize("NFKC", text).lower().replace("_", " "))
    return " ".join(part for piece in symbols.split() for part in (words(piece) or _SYMBOL.findall(piece)))
