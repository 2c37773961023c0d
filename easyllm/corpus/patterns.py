"""How byte-level tokenizers cut text into pieces before they merge, rewritten so that a linear-time engine can do it.

These patterns end in ``\\s+(?!\\S)|\\s+``: a run of white space before a word leaves its last character to the word.
The look-ahead is all that forces a backtracking engine on them. So a mark is put at exactly those places, at which the
engine cuts the text, and the rest of the pattern, which looks at no neighbour, does the same on each part by itself.
"""

import re
from dataclasses import dataclass

RARE_SPACE = "\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
SPACE = "\t-\r " + RARE_SPACE
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

_CUT_ANYWHERE = {GPT2}
"""The others take all up to the last line end of a run first, and leave to the look-ahead what follows it."""

MARK = "\U0010ffff"
"""Where the text is cut: no character, and none ever will be."""


@dataclass(frozen=True)
class Split:
    """A pattern without look-ahead, and where the text must be cut before it is used."""

    pattern: str
    common: tuple[tuple[str, re.Pattern[str]], ...]
    """White space of ASCII, and where a cut comes after it: one pattern a character is what ``re`` is fastest at."""
    rare: re.Pattern[str]
    """The same for all the others."""

    def mark(self, text: str) -> str:
        """``text``, in which there is no mark, with one at every cut."""
        for character, place in self.common:
            if character in text:
                text = place.sub(character + MARK, text)
        return text if text.isascii() else self.rare.sub(rf"\g<0>{MARK}", text)


def split_of(pattern: str) -> Split | None:
    """The same split as ``pattern`` makes; None for a pattern that is not known."""
    if pattern not in (GPT2, LLAMA3, QWEN2, GPT4O):
        return None
    space = SPACE if pattern in _CUT_ANYWHERE else SPACE_ON_A_LINE
    before_word = f"(?=[{space}][^{SPACE}{MARK}])"
    ascii_space = [c for c in " \n\t\r\x0b\x0c" if re.match(f"[{space}]", c)]
    common = tuple((c, re.compile(c + before_word)) for c in ascii_space)
    return Split(pattern.removesuffix(TAIL) + r"|\s+", common, re.compile(f"[{RARE_SPACE}]{before_word}"))
