"""How byte-level tokenizers cut text into pieces before they merge, rewritten so that a linear-time engine can do it.

These patterns end in ``\\s+(?!\\S)|\\s+``: a run of white space before a word leaves its last character to the word.
The look-ahead is all that forces a backtracking engine on them. So the text is cut by us at exactly those places
(``cuts``), and the rest of the pattern, which looks at no neighbour, does the same on each part by itself.
"""

import re
from dataclasses import dataclass

SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space, as the regex engines of tokenizers and tiktoken have it; Python's own \\s has four more."""

SPACE_ON_A_LINE = SPACE.replace("\t-\r", "\t\x0b\x0c")

TAIL = r"|\s+(?!\S)|\s+"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+" + TAIL
"""What the ByteLevel pre-tokenizer does by itself: GPT-2, and every tokenizer trained here."""

_LINES = r"|\s*[\r\n]+" + TAIL
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _LINES
QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _LINES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _LINES
)

_ANY_SPACE = f"[{SPACE}](?=[{SPACE}][^{SPACE}])"
# Where \s*[\r\n]+ comes first, only what follows the last line end is left to the look-ahead.
_SPACE_OF_A_LINE = f"[{SPACE_ON_A_LINE}](?=[{SPACE_ON_A_LINE}][^{SPACE}])"
_CUTS = {GPT2: _ANY_SPACE, LLAMA3: _SPACE_OF_A_LINE, QWEN2: _SPACE_OF_A_LINE, GPT4O: _SPACE_OF_A_LINE}


@dataclass(frozen=True)
class Split:
    """A pattern without look-ahead, and the places to cut the text at before it is used."""

    pattern: str
    cuts: re.Pattern[str]
    """Each match ends where a part ends."""


def split_of(pattern: str) -> Split | None:
    """The same split as ``pattern`` makes; None for a pattern that is not known."""
    cuts = _CUTS.get(pattern)
    return Split(pattern.removesuffix(TAIL) + r"|\s+", re.compile(cuts)) if cuts else None
