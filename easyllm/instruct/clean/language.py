"""Text in a language that nobody asked for. What is short or mixed is left alone, for there no filter is sure."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import regex

from easyllm.core.languages import identifier
from easyllm.instruct.clean.patterns import pattern
from easyllm.instruct.clean.tokens import tokens_of
from easyllm.instruct.row import Finding, Row

_SCRIPTS = {
    "zh": r"\p{Han}", "ja": r"[\p{Hiragana}\p{Katakana}]", "ko": r"\p{Hangul}", "th": r"\p{Thai}", "lo": r"\p{Lao}",
    "km": r"\p{Khmer}", "my": r"\p{Myanmar}", "bo": r"\p{Tibetan}", "el": r"\p{Greek}", "he": r"\p{Hebrew}",
    "ka": r"\p{Georgian}", "hy": r"\p{Armenian}", "": r"\p{Latin}",
}  # fmt: skip
"""Scripts that tell the language, and Latin, which does not. Cyrillic, Arabic and Devanagari are left to py3langid."""
_SCRIPT = {code: regex.compile(pattern) for code, pattern in _SCRIPTS.items()}
_RELATIVES = {"wuu": "zh", "yue": "zh", "pcm": "en", "sco": "en"}
"""Codes that py3langid gives to short texts of the other one."""
_NOT_LATIN = {
    *_SCRIPTS,
    "ru",
    "uk",
    "be",
    "bg",
    "mk",
    "kk",
    "ky",
    "mn",
    "ar",
    "fa",
    "ur",
    "hi",
    "mr",
    "ne",
    "bn",
    "ta",
    "te",
}

_FEWEST_TOKENS, _FEWEST_LETTERS = 4, 20
_OWN_TOKENS, _OWN_SHARE = 3, 0.1
"""A text that has these of a wanted language is mixed, such as one to translate."""
_SURE, _NEARLY_NONE = 0.9, 0.05

_CODE = regex.compile(r"[=(){}\[\];<>]")


def other_language(text: str, wanted: Collection[str]) -> dict[str, Any] | None:
    """{"language", "share" or "probability"} of a text that is clearly in none of the languages ``wanted``."""
    tokens = tokens_of(text)
    counts = Counter(code for token in tokens if (code := _script_of(token)) is not None)
    if counts["ja"]:
        counts["ja"] += counts.pop("zh", 0)  # Japanese is written in both
    total = sum(counts.values())
    if len(tokens) < _FEWEST_TOKENS or not total:
        return None
    own = sum(counts[code] for code in wanted if code in _SCRIPTS)
    if own >= _OWN_TOKENS and own / total >= _OWN_SHARE:
        return None
    likeliest, count = counts.most_common(1)[0]
    if likeliest in wanted:
        return None
    if likeliest and likeliest != "other":
        latin_may_stand = any(code not in _NOT_LATIN for code in wanted) and counts[""] >= _OWN_TOKENS
        return None if latin_may_stand else {"language": likeliest, "share": round(count / total, 3)}
    if not likeliest and all(code in _NOT_LATIN for code in wanted):
        return {"language": _ranked(text)[0][0], "share": round(count / total, 3)}
    return _by_model(text, wanted, sure=_SURE if not likeliest else 0.0)


def _script_of(token: str) -> str | None:
    """Language of the token's first letter, by its script; "" for Latin, other where a script has many languages."""
    letter = next((character for character in token if character.isalpha()), None)
    if letter is None:
        return None
    return next((code for code, pattern in _SCRIPT.items() if pattern.match(letter)), "other")


def _by_model(text: str, wanted: Collection[str], sure: float) -> dict[str, Any] | None:
    if sum(character.isalpha() for character in text) < _FEWEST_LETTERS:
        return None
    ranked = _ranked(text)
    language, probability = ranked[0]
    if probability < sure or sum(share for code, share in ranked if code in wanted) > _NEARLY_NONE:
        return None
    return {"language": language, "probability": round(probability, 3)}


def _ranked(text: str) -> list[tuple[str, float]]:
    return [(_RELATIVES.get(code, code), float(share)) for code, share in identifier().rank(text)]


def wrong_language(text: str, wanted: Collection[str]) -> list[Finding]:
    """wrong_language: an instruction in a language that no seed has, or that ``languages`` does not name."""
    found = other_language(text, wanted) if wanted else None
    return [Finding("wrong_language", True, {**found, "wanted": sorted(wanted)})] if found else []


def output_language(row: Row) -> list[Finding]:
    """output_language: an answer in another language than its row, where nothing in the row explains that."""
    found = other_language(row.output, {row.language}) if row.language else None
    if not found or _explained(row):
        return []
    return [Finding("output_language", True, {**found, "wanted": [row.language]})]


def _explained(row: Row) -> bool:
    """It is about languages or is code, it was asked in that other language, or has some of it to work on."""
    asked = f"{row.instruction}\n{row.input}"
    code = len(_CODE.findall(row.output)) > len(row.output) / 25
    return bool(
        code
        or pattern("language", "explained").search(asked)
        or _mixed(asked, row.language)
        or other_language(asked, {row.language})
    )


def _mixed(text: str, language: str) -> bool:
    """Whether some of it is in another script than the row's language has."""
    own = language if language in _SCRIPTS else ""
    return sum(_script_of(token) not in (own, None) for token in tokens_of(text)) >= _OWN_TOKENS
