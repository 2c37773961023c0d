"""What can be asked of the cleaning: blocks, each optional, always in the order in which they stand here."""

from typing import Annotated

from pydantic import Field

from easyllm.core.section import Section

Share = Annotated[float, Field(gt=0, le=1)]
NGrams = dict[Annotated[int, Field(ge=1)], Share]


class Length(Section):
    """Documents that are too short or too long. A word is a run of letters and digits, or one Chinese character."""

    min_characters: Annotated[int, Field(ge=0)] = 0
    """Fewer are too short; white space counts."""
    max_characters: Annotated[int | None, Field(ge=1)] = None
    """More are too long; null: no limit."""
    min_words: Annotated[int, Field(ge=0)] = 0
    """Fewer are too short."""
    max_words: Annotated[int | None, Field(ge=1)] = None
    """More are too long; null: no limit."""


class Language(Section):
    """Documents in no language that is wanted. py3langid tells 140 apart, with a model that its package carries."""

    keep: Annotated[tuple[str, ...], Field(min_length=1)]
    """Codes of ISO 639, such as zh and en. A short Chinese text may be taken for wuu (Wu) or yue (Cantonese) in part:
    keep all three."""
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A document stays in if it is at least this likely, 0 to 1, to be in one of the languages."""


class Repetition(Section):
    """Documents that repeat themselves, by the rules of Gopher; a limit is the share that is still good."""

    lines: Share | None = 0.3
    """Lines that repeat an earlier one; null: not looked at, here and below."""
    paragraphs: Share | None = 0.3
    """Paragraphs that repeat an earlier one."""
    line_characters: Share | None = 0.2
    """Characters of the document in repeated lines."""
    paragraph_characters: Share | None = 0.2
    """Characters of the document in repeated paragraphs."""
    top_ngrams: NGrams = Field(default={2: 0.2, 3: 0.18, 4: 0.16})
    """Characters in the most frequent run of so many words; {}: not looked at."""
    repeated_ngrams: NGrams = Field(default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1})
    """Characters in repeated runs of so many words; {}: not looked at."""


class NearDuplicates(Section):
    """Documents that are almost equal to another, by MinHash: of each cluster one stays in."""

    ngram: Annotated[int, Field(ge=1, le=100)] = 5
    """Words in a run; letters are compared in lower case, numbers, accents and punctuation are not compared."""
    buckets: Annotated[int, Field(ge=1, le=999)] = 14
    """More find more pairs, and cost time and disk. Of two documents that share a part s of their runs of words,
    1 - (1 - s ** hashes_per_bucket) ** buckets is the chance to be found: 0.92 for s = 0.8."""
    hashes_per_bucket: Annotated[int, Field(ge=1, le=100)] = 8
    """More ask for a greater likeness."""


class CleanConfig(Section):
    """Blocks of datatrove that drop documents. They work in the order of this list, duplicates last."""

    length: Length | None = None
    """Drop what is too short or too long, in characters or in words; of Chinese each character is a word."""
    language: Language | None = None
    """Drop what is in other languages."""
    repetition: Repetition | None = None
    """Drop what repeats itself; {} takes Gopher's limits. Of Chinese each character is a word, so limits on few words
    bite earlier than on English."""
    exact_duplicates: bool = False
    """Drop a document whose text stands in the corpus earlier, letter for letter."""
    near_duplicates: NearDuplicates | None = None
    """Drop all but one of documents that are nearly equal; {} takes datatrove's measure."""
    keep: bool = False
    """Keep the cleaned documents in the artifact, as clean/*.jsonl.zst; false: only the tokens."""

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks that are asked for, in the order they work."""
        return [name for name in BLOCKS if getattr(self, name)]


BLOCKS = ("length", "language", "repetition", "exact_duplicates", "near_duplicates")
