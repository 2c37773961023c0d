"""How much text a tokenizer is learned from, so that learning stays within a memory that is known before.

The trainer holds every different word (a run of letters, as the split pattern cuts it) with all its pairs. English has
few of them; of Chinese almost every clause is a word of its own.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from easyllm.core.messages import say
from easyllm.corpus.config import TrainTokenizer
from easyllm.corpus.documents import Span, of_span

MOST_TEXT_BYTES = 200_000_000
"""More teaches a tokenizer little."""
MEMORY_BYTES = 600_000_000
"""What learning may take, beside the 150 MB of a process that has loaded its libraries."""
MEMORY_PER_BYTE = 100
"""Of different words: measured 65 on English prose with rare words, 95 on Chinese clauses."""
SAMPLE_BYTES = 4_000_000
MOST_FILES = 50


def learning_bytes(asked: TrainTokenizer, files: Sequence[Path], text_key: str, text_bytes: float) -> tuple[int, str]:
    """(bytes of text to learn from at the most, why). Without ``text_bytes`` in the recipe, by what memory allows."""
    if asked.text_bytes is not None:
        return asked.text_bytes, say("why_text_bytes", text_bytes=asked.text_bytes)
    enough = MEMORY_BYTES // MEMORY_PER_BYTE
    most = min(MOST_TEXT_BYTES, max(enough, round(text_bytes)))
    if most > enough:
        most = min(most, max(enough, _bytes_that_fit(enough, _heads(files, text_key))))
    if most == MOST_TEXT_BYTES or most >= text_bytes:
        return MOST_TEXT_BYTES, say("why_learning_most", most=MOST_TEXT_BYTES)
    return most, say("why_learning_memory", memory=MEMORY_BYTES // 10**6)


def _bytes_that_fit(words_bytes: int, texts: Iterable[str]) -> int:
    """Text whose different words take ``words_bytes``: their growth is a power of the text (Heaps), fitted here."""
    import regex

    from easyllm.corpus.patterns import GPT2

    pattern, seen = regex.compile(GPT2), set[str]()
    read = different = 0
    passed: list[tuple[int, int]] = []
    for text in texts:
        for word in pattern.findall(text):
            if word not in seen:
                seen.add(word)
                different += len(word.encode())
        read += len(text.encode())
        passed.append((read, different))
    if not different:
        return MOST_TEXT_BYTES
    half_read, half = next(row for row in passed if row[0] >= read / 2)
    growth = math.log(different / half) / math.log(read / half_read) if read > half_read else 1.0
    growth = min(1.0, max(0.3, growth))
    return int(read * (words_bytes / different) ** (1 / growth))


def _heads(files: Sequence[Path], text_key: str) -> Iterator[str]:
    """The heads of files taken evenly, ``SAMPLE_BYTES`` in all."""
    chosen = range(0, len(files), -(-len(files) // MOST_FILES))
    for index in chosen:
        left = SAMPLE_BYTES // len(chosen)
        for document in of_span(Span(index), files, text_key):
            if left <= 0:
                break
            text = document.text[:left]  # a character is a byte or more
            left -= len(text.encode())
            yield text
