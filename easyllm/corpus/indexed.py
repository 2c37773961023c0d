"""Megatron's indexed dataset, PREFIX.bin and PREFIX.idx, byte for byte as Megatron-Core's own builder writes it.

Written here because importing Megatron-Core to do it costs longer than tokenising a small corpus; a test compares
the bytes.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_DTYPE_CODES = {"int32": 4, "uint16": 8}
_BLOCK = 1 << 20
"""Documents whose index entries are made at a time."""

Blocks = Iterable[Any]
"""Arrays, one after the other."""


class DocumentWriter:
    """Documents' tokens one after the other in a file, their lengths (int32) in another; nothing stays in memory."""

    def __init__(self, tokens: Path, lengths: Path, dtype: str) -> None:
        self.dtype = numpy.dtype(dtype)
        self._tokens, self._lengths = tokens.open("wb"), lengths.open("wb")

    def add(self, ids: Sequence[int]) -> Any:
        """Append one document; its ids as they are written."""
        written = numpy.asarray(ids, dtype=self.dtype)
        self._tokens.write(written.tobytes())
        self._lengths.write(struct.pack("<i", len(ids)))
        return written

    def close(self) -> None:
        """Both files are on the disk after it."""
        for file in (self._tokens, self._lengths):
            sync_and_close(file)


def read_lengths(paths: Iterable[Path]) -> Iterator[Any]:
    """The lengths that ``DocumentWriter`` wrote, block by block."""
    for path in paths:
        with path.open("rb") as file:
            while data := file.read(_BLOCK * 4):
                yield numpy.frombuffer(data, dtype=numpy.int32)


def write_index(path: Path, dtype: str, documents: int, lengths: Callable[[], Blocks]) -> None:
    """The .idx of a .bin with so many documents; ``lengths`` gives their lengths anew each time it is called."""
    item_bytes = numpy.dtype(dtype).itemsize
    with path.open("wb") as index:
        index.write(_MAGIC + struct.pack("<QB", _VERSION, _DTYPE_CODES[dtype]))
        index.write(struct.pack("<QQ", documents, documents + 1))
        for block in lengths():
            index.write(block.tobytes())
        at = 0
        for block in lengths():
            sizes = block.astype(numpy.int64) * item_bytes
            index.write((at + numpy.cumsum(sizes) - sizes).tobytes())
            at += int(sizes.sum())
        for start in range(0, documents + 1, _BLOCK):
            index.write(numpy.arange(start, min(start + _BLOCK, documents + 1), dtype=numpy.int64).tobytes())
        sync_and_close(index)


def sync_and_close(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
