"""The blocks that look at one document at a time: length and language as filters of datatrove, repetition its own."""

from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.lid import LID

from easyllm.core.languages import identifier
from easyllm.corpus.clean import config
from easyllm.corpus.clean.words import Words


class LengthFilter(BaseFilter):  # type: ignore[misc]  # datatrove is untyped
    """Drops a document with too few or too many characters or words."""

    name = "📏 Length"

    def __init__(self, limits: config.Length, exclusion_writer: Any = None) -> None:
        super().__init__(exclusion_writer)
        self.limits = limits

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        asked = self.limits
        if len(doc.text) < asked.min_characters:
            return False, "fewer characters"
        if asked.max_characters is not None and len(doc.text) > asked.max_characters:
            return False, "more characters"
        if asked.min_words or asked.max_words is not None:
            words = len(Words().word_tokenize(doc.text))
            if words < asked.min_words:
                return False, "fewer words"
            if asked.max_words is not None and words > asked.max_words:
                return False, "more words"
        return True


class LanguageFilter(BaseFilter):  # type: ignore[misc]  # datatrove is untyped
    """Drops a document in none of the languages that are kept, and notes the language of the others.

    datatrove's own filter of this name cannot be made without fasttext, and its models come from the internet.
    """

    name = "🌍 Language"

    def __init__(self, wanted: config.Language, exclusion_writer: Any = None) -> None:
        super().__init__(exclusion_writer)
        self.wanted = wanted
        self.model = Py3LangId(list(wanted.keep))

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        (likeliest, score), scores = self.model.predict(doc)
        doc.metadata["language"], doc.metadata["language_score"] = likeliest, round(score, 4)
        if sum(scores.values()) >= self.wanted.min_score:
            return True
        return False, "unsure" if likeliest in self.wanted.keep else likeliest


class Py3LangId(LID):  # type: ignore[misc]  # datatrove is untyped
    """py3langid as a language identifier of datatrove."""

    def predict(self, doc: Document) -> tuple[tuple[str, float], dict[str, float]]:
        """((likeliest language, its score), score of each of the languages asked for)."""
        ranked = identifier().rank(doc.text)
        scores = dict(ranked)
        return ranked[0], {language: scores.get(language, 0.0) for language in self.languages}


def repetition_filter(limits: config.Repetition, exclusion_writer: Any = None) -> GopherRepetitionFilter:
    """Gopher's rules with these limits."""
    return GopherRepetitionFilter(
        dup_line_frac=limits.lines,
        dup_para_frac=limits.paragraphs,
        dup_line_char_frac=limits.line_characters,
        dup_para_char_frac=limits.paragraph_characters,
        top_n_grams=tuple(limits.top_ngrams.items()),
        dup_n_grams=tuple(limits.repeated_ngrams.items()),
        exclusion_writer=exclusion_writer,
        language=Words(),
    )
