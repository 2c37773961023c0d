"""Megatron's .bin and .idx, byte for byte what megatron.core's IndexedDatasetBuilder writes, without importing it.

Format (megatron/core/datasets/indexed_dataset.py): .bin holds the token ids one after the other; .idx holds
"MMIDIDX\\0\\0", version 1 as <Q, the dtype's code as <B, the number of sequences and of document marks as <Q each,
then sequence lengths (int32), their byte offsets (int64) and the document marks (int64). Here a document is one
sequence. A test compares the bytes with Megatron's own builder, whose import alone takes seconds.
"""

import os
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

HEADER = b"MMIDIDX\x00\x00"
DTYPE_CODES = {"int32": 4, "uint16": 8}
"""Codes of megatron.core's DType."""


def smallest_dtype(vocabulary: int) -> str:
    """uint16 where the ids fit as Megatron judges it (DType.optimal_dtype), else int32."""
    return "uint16" if vocabulary < 65500 else "int32"


class TokensWriter:
    """``with TokensWriter(prefix, "uint16") as out: out.add(ids)``: one document a call."""

    def __init__(self, prefix: Path, dtype: str) -> None:
        self._prefix, self._dtype = prefix, np.dtype(dtype)
        self._bin = prefix.with_suffix(".bin").open("wb")
        self.lengths = array("i")
        """Tokens of every document so far, end token included."""

    def __enter__(self) -> "TokensWriter":
        return self

    def add(self, ids: Sequence[int]) -> None:
        self._bin.write(np.asarray(ids, dtype=self._dtype).tobytes())
        self.lengths.append(len(ids))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bin.close()
        if kind is None:
            self._write_index()

    def _write_index(self) -> None:
        lengths = np.frombuffer(self.lengths, dtype=np.int32) if self.lengths else np.zeros(0, np.int32)
        ends = np.cumsum(lengths, dtype=np.int64) * self._dtype.itemsize
        offsets = np.concatenate([np.zeros(1, np.int64), ends])[: len(lengths)]
        beside = self._prefix.with_suffix(".idx.half")
        with beside.open("wb") as file:
            file.write(HEADER)
            file.write(struct.pack("<QB", 1, DTYPE_CODES[self._dtype.name]))
            file.write(struct.pack("<QQ", len(lengths), len(lengths) + 1))
            file.write(lengths.tobytes())
            file.write(offsets.tobytes())
            file.write(np.arange(len(lengths) + 1, dtype=np.int64).tobytes())
        os.replace(beside, self._prefix.with_suffix(".idx"))
