"""Instructions that need more than text: pictures, sound, video, files, maps, the web; and words that a user forbids.

A word alone decides nothing: "draw a conclusion", "a linked list", "the file system" and "convert an image in Python"
are text. What counts is that something is shown, attached or to be made, or that the answerer must go somewhere.
"""

import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import regex

from easyllm.core.languages import WITHOUT_SPACES
from easyllm.instruct.row import Finding


def unservable(text: str) -> list[Finding]:
    """forbidden_topic, with the words that told: at most one of each topic."""
    topics, address, address_as_text = _patterns()
    found = {topic: match[0].strip() for topic, pattern in topics.items() if (match := pattern.search(text))}
    followed = address.search(text)
    if followed and not address_as_text.search(address.sub(" ", text)):
        found.setdefault("link", followed[0])
    return [Finding("forbidden_topic", True, {"topic": topic, "words": words}) for topic, words in found.items()]


@cache
def _patterns() -> tuple[dict[str, Any], Any, Any]:
    """(one pattern a topic, an address, what makes an address text) of topics.toml."""
    said = tomllib.loads(Path(__file__).with_name("topics.toml").read_text("utf-8"))

    def compiled(*patterns: str) -> Any:
        whole = "|".join(patterns)
        for name, part in said["parts"].items():
            whole = whole.replace(f"<{name}>", part)
        return regex.compile(whole, regex.IGNORECASE)

    topics = {topic: compiled(*rules["en"], *rules["zh"]) for topic, rules in said["topics"].items()}
    return topics, compiled(said["address"]["is"]), compiled(said["address"]["as_text"])


class Forbidden:
    """Words of the user's own: whole words where words are set apart, anywhere in the text in Chinese and the like."""

    def __init__(self, words: Sequence[str]) -> None:
        parts = [_bordered(word.strip()) for word in words if word.strip()]
        self._pattern = regex.compile("|".join(parts), regex.IGNORECASE) if parts else None

    def find(self, text: str) -> list[Finding]:
        found = self._pattern.search(text) if self._pattern else None
        return [Finding("forbidden_word", True, {"words": found[0]})] if found else []


def _bordered(word: str) -> str:
    spaced = rf"(?:(?![{WITHOUT_SPACES}])\w)"
    before = rf"(?<!{spaced})" if regex.match(spaced, word) else ""
    after = rf"(?!{spaced})" if regex.match(spaced, word[-1]) else ""
    return f"{before}{regex.escape(word)}{after}"
