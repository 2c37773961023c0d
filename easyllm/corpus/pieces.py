"""The corpus cut into pieces of fixed size: what one worker does at a time, and what a kill costs at the most.

Where a piece begins and ends depends on the files alone, so that the result is the same whatever the number of workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from easyllm.core.inputs import COLUMN_SUFFIXES
from easyllm.core.rows import Cut, cuts_of_packed, plain_suffix
from easyllm.corpus.documents import STAGE, Span

PIECE_BYTES = 1 << 23
"""Of text as it stands in the file, unpacked: some seconds of work."""

WHOLE_PACKED_BYTES = 1 << 21
"""A smaller compressed file is read by one worker; a larger one is unpacked here and handed out in cuts."""


@dataclass(frozen=True)
class Piece:
    """Parts of files that are read one after the other."""

    number: int
    """Pieces are put together in this order."""
    source: int
    """Index into the sources of the corpus."""
    spans: tuple[Span, ...]
    bytes: int
    """Of the files as they lie on disk, read for it."""


def pieces(files: Sequence[Path], text_key: str, source_of: Sequence[int]) -> Iterator[Piece]:
    """Every piece of ``files``, none across two sources. Raises UserError where a packed file or columns are broken."""
    number, held = 0, Piece(0, 0, (), 0)
    weight = 0
    for index, path in enumerate(files):
        for span, text_bytes, disk_bytes in spans_of(index, path, text_key):
            if held.spans and (weight + text_bytes > PIECE_BYTES or held.source != source_of[index]):
                yield held
                number, weight, held = number + 1, 0, Piece(number + 1, 0, (), 0)
            held = replace(held, source=source_of[index], spans=(*held.spans, span), bytes=held.bytes + disk_bytes)
            weight += text_bytes
    if held.spans:
        yield held


def spans_of(index: int, path: Path, text_key: str) -> Iterator[tuple[Span, int, int]]:
    """(span, bytes of its text, its bytes on disk) of one file; the first is an estimate for packed files."""
    size, kind = path.stat().st_size, plain_suffix(path)
    if path.suffix in COLUMN_SUFFIXES:
        yield from _column_spans(index, path, text_key, size)
    elif kind in (".txt", ".json"):
        yield Span(index), size, size
    elif path.suffix in (".gz", ".zst"):
        if size <= WHOLE_PACKED_BYTES:
            yield Span(index), 4 * size, size
            return
        for cut, disk_bytes in cuts_of_packed(path, STAGE, PIECE_BYTES):
            yield Span(index, cut), PIECE_BYTES, disk_bytes
    elif size <= PIECE_BYTES:
        yield Span(index), size, size
    else:
        for begin in range(0, size, PIECE_BYTES):
            end = min(size, begin + PIECE_BYTES)
            yield Span(index, Cut(begin, end)), end - begin, end - begin


def _column_spans(index: int, path: Path, text_key: str, size: int) -> Iterator[tuple[Span, int, int]]:
    """Row groups put together until they make a piece; a larger group is not divided."""
    from easyllm.corpus.columns import group_bytes

    sizes = list(group_bytes(path, text_key))
    whole, begin, held = max(1, sum(sizes)), 0, 0
    for number, text_bytes in enumerate([*sizes, PIECE_BYTES]):
        if number > begin and held + text_bytes > PIECE_BYTES:
            yield Span(index, groups=(begin, number)), held, size * held // whole
            begin, held = number, 0
        held += text_bytes
