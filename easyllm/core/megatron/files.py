"""The files of a checkpoint and how to tell that they are as they were saved. Without Megatron, and without torch."""

import json
import os
import zlib
from pathlib import Path

SAVED = "easyllm"
"""The key of our own plain values beside the tensors."""
FILES = "files.json"
"""In a checkpoint: size and CRC-32 of every other file of it."""
READ_BYTES = 1 << 24


def sum_of(path: Path, sync: bool = False) -> list[int]:
    """[bytes, CRC-32] of a file; with ``sync`` it is on the disk then."""
    crc = size = 0
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        while piece := file.read(READ_BYTES):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
    return [size, crc]


def damage(directory: Path) -> str | None:
    """The first file that is not as it was saved, by name; None where all are. Reads the whole checkpoint."""
    try:
        listed: dict[str, list[int]] = json.loads((directory / FILES).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return FILES
    for name, saved in listed.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != saved[0] or sum_of(path) != saved:
            return name
    return None
