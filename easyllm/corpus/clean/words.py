"""Words for datatrove's blocks, in any language and without a model or data to download."""

from typing import Any

import regex
from datatrove.utils.word_tokenizers import WordTokenizer, simple_span_tokenize

from easyllm.core.languages import words

_SENTENCE = regex.compile(r"[^.!?。！？\n]+[.!?。！？\n]*")


class Words(WordTokenizer):
    """Runs of letters and digits, and single characters where words are not set apart; no punctuation.

    datatrove's own splitters for English and Chinese need spaCy and jieba, and one splitter a language: a corpus that
    mixes the two has no right one.
    """

    def __init__(self) -> None:
        super().__init__("any")

    def word_tokenize(self, text: str) -> list[str]:
        return words(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return [found.strip() for found in _SENTENCE.findall(text) if found.strip()]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return list(simple_span_tokenize(text, self.sent_tokenize(text)))

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Words)

    def __hash__(self) -> int:  # datatrove keeps what it split by text and splitter
        return hash(Words)
