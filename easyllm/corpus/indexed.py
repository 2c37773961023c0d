"""Megatron's indexed dataset, PREFIX.bin and PREFIX.idx, byte for byte as Megatron-Core's own builder writes it.

Written here because importing Megatron-Core to do it costs longer than tokenising a small corpus; a test compares
the bytes.
"""

import os
import struct
from array import array
from pathlib import Path
from typing import BinaryIO

import numpy

_MAGIC = b"MMIDIDX\x00\x00"
_VERSION = 1
_DTYPE_CODES = {"int32": 4, "uint16": 8}
_BLOCK = 1 << 20
"""Documents whose index entries are made at a time."""


class IndexedWriter:
    """Add documents in order, then ``finish``. Holds four bytes a document in memory."""

    def __init__(self, prefix: Path, dtype: str) -> None:
        self.lengths = array("i")
        """Tokens of each document, the end of document counted."""
        self._prefix, self._dtype = prefix, numpy.dtype(dtype)
        self._bin = prefix.with_suffix(".bin").open("wb")

    def add(self, ids: list[int]) -> None:
        """Append one document."""
        self._bin.write(numpy.array(ids, dtype=self._dtype).tobytes())
        self.lengths.append(len(ids))

    def finish(self) -> None:
        """Write the index and sync both files."""
        _sync_and_close(self._bin)
        lengths = numpy.frombuffer(self.lengths, dtype=numpy.int32)
        count = len(lengths)
        index = self._prefix.with_suffix(".idx").open("wb")
        index.write(_MAGIC + struct.pack("<QB", _VERSION, _DTYPE_CODES[self._dtype.name]))
        index.write(struct.pack("<QQ", count, count + 1))
        index.write(lengths.tobytes())
        at = 0
        for start in range(0, count, _BLOCK):
            sizes = lengths[start : start + _BLOCK].astype(numpy.int64) * self._dtype.itemsize
            index.write((at + numpy.cumsum(sizes) - sizes).tobytes())
            at += int(sizes.sum())
        for start in range(0, count + 1, _BLOCK):
            index.write(numpy.arange(start, min(start + _BLOCK, count + 1), dtype=numpy.int64).tobytes())
        _sync_and_close(index)


def _sync_and_close(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
