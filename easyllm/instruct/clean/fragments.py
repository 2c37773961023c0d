"""Instructions that are no whole instruction: empty, a piece of a list or of JSON, begun or ended in the middle."""

import unicodedata
from typing import Any

import regex

from easyllm.instruct.row import Finding

_OPENING = {"Ps", "Pi"}
_QUOTES = "\"'“‘¿¡"
_STARTS = regex.compile(r"[-+][\d(.]|[±√∫∑$€£¥#@&~]\s?[\w(]|\.[A-Za-z]|<\w+>|\*\w|`")
"""Punctuation that begins a word, a number, a formula, a name or code: -5, $20, #include, @property, .NET, `x`."""
_NUMBERED = regex.compile(r"(?:\(?\d{1,2}[.)）]|（\d{1,2}）|\d{1,2}、|[①-⑳])\s|\d{1,2}、|[①-⑳]")
_LABEL = regex.compile(r"(?:instruction|task|question|指令|任务|问题)\s*\d{0,3}\s*[:：]", regex.IGNORECASE)
_JSON = regex.compile(r'\s*[\[{]\s*(?:["{\[\]}]|$)|"?(?:instruction|input|output)"?\s*:\s*["\[{]', regex.IGNORECASE)
_UNENDED = regex.compile(r"[,，、（(\[{【《「“]$|\b(?:and|or|the|an?|of|to|with|for)$", regex.IGNORECASE)


def fragment(text: str) -> list[Finding]:
    """empty_instruction, fragment (``form``: json, numbered, label, unended) or starts_with_punctuation."""
    text = text.strip()
    if not any(character.isalnum() for character in text):
        return [Finding("empty_instruction", True, {"text": text})]
    form = _form(text)
    if form:
        return [Finding("fragment", True, {"form": form, "begins": text[:40], "ends": text[-20:]})]
    if not _starts_well(text):
        return [Finding("starts_with_punctuation", True, {"begins": text[:20]})]
    return []


def _form(text: str) -> str | None:
    forms: dict[str, Any] = {"json": _JSON.match, "numbered": _NUMBERED.match, "label": _LABEL.match}
    found = next((name for name, finds in forms.items() if finds(text)), None)
    return found or ("unended" if _UNENDED.search(text) else None)


def _starts_well(text: str) -> bool:
    """A letter or digit; a quotation mark or bracket that something follows; punctuation that belongs to a word."""
    first = text[0]
    kind = unicodedata.category(first)
    if kind[0] in "LNM" or kind == "So" or _STARTS.match(text):
        return True
    return (kind in _OPENING or first in _QUOTES) and any(character.isalnum() for character in text[1:])
