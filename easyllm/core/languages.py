"""Words and languages of a text, in any language and without a model or data to download."""

from functools import cache
from typing import Any

import regex

WITHOUT_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
"""Scripts that put no space between words: one character is a word there."""

_WORD = regex.compile(rf"[{WITHOUT_SPACES}]\p{{M}}*|[\w--[{WITHOUT_SPACES}]]+", regex.VERSION1)


def words(text: str) -> list[str]:
    """Runs of letters and digits, and single characters where words are not set apart; no punctuation."""
    found: list[str] = _WORD.findall(text)
    return found


def known_languages() -> list[str]:
    """Codes that ``identifier`` tells apart."""
    return sorted(identifier().labels)


@cache
def identifier() -> Any:
    """py3langid. Its tables take half a second to read and 100 MB, so a process reads them once, and only on need."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
