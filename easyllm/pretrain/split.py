"""Which documents are for training and which for validation, as Megatron will cut them. No torch, no numpy."""

import struct
from dataclasses import dataclass
from pathlib import Path

INDEX_MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
"""Of an .idx file: magic, version, code of the token type, sequences, document bounds."""
TOKEN_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8, 7: 4, 8: 2}
"""By Megatron's code of the type."""


@dataclass(frozen=True)
class Part:
    """Consecutive documents of a corpus."""

    documents: int
    tokens: int | None
    """Unknown where the index is not there to be read."""


def ratio(share: float | None) -> str:
    """Megatron's own words for it: training, validation, test. No exponents, which it does not read."""
    return "100,0,0" if share is None else f"{1 - share:.12f},{share:.12f},0"


def first_held_out(documents: int, share: float) -> int:
    """The document at which validation begins: Megatron's arithmetic, step by step, for its rounding."""
    train, held_out = (float(part) for part in ratio(share).split(",")[:2])
    return round(train / (train + held_out) * float(documents))


def parts(prefix: Path, documents: int, share: float) -> tuple[Part, Part]:
    """(training, validation). A part with no document makes Megatron loop for ever."""
    cut = first_held_out(documents, share)
    counted = _tokens(prefix, documents, cut)
    train, held_out = counted or (None, None)
    return Part(cut, train), Part(documents - cut, held_out)


def _tokens(prefix: Path, documents: int, cut: int) -> tuple[int, int] | None:
    """Tokens before and after document ``cut``, from two numbers of the index."""
    index, data = prefix.with_name(prefix.name + ".idx"), prefix.with_name(prefix.name + ".bin")
    if not index.is_file() or not data.is_file():
        return None
    with index.open("rb") as file:
        magic, _, code, sequences, _ = HEADER.unpack(file.read(HEADER.size))
        if magic != INDEX_MAGIC or sequences != documents:
            return None
        width, whole = TOKEN_BYTES[code], data.stat().st_size
        if cut == sequences:
            return whole // width, 0
        file.seek(HEADER.size + 4 * sequences + 8 * cut)  # past the lengths, into the byte offsets
        (offset,) = struct.unpack("<Q", file.read(8))
    return offset // width, (whole - offset) // width
