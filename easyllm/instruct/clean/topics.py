"""Instructions that need more than text: pictures, sound, video, files, maps, the web; and words that a user forbids.

A word alone decides nothing: "draw a conclusion", "a linked list", "the file system" and "convert an image in Python"
are text. What counts is that something is shown, attached or to be made, or that the answerer must go somewhere.
"""

from collections.abc import Sequence

import regex

from easyllm.core.languages import WITHOUT_SPACES
from easyllm.instruct.clean.patterns import pattern, topics
from easyllm.instruct.row import Finding


def unservable(text: str) -> list[Finding]:
    """forbidden_topic, with the words that told: at most one of each topic."""
    found = {topic: match[0].strip() for topic, tells in topics().items() if (match := tells.search(text))}
    address = pattern("address", "is")
    followed = address.search(text)
    if followed and not pattern("address", "as_text").search(address.sub(" ", text)):
        found.setdefault("link", followed[0])
    return [Finding("forbidden_topic", True, {"topic": topic, "words": words}) for topic, words in found.items()]


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
