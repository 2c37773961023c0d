"""Files of torch.save, read tensor by tensor: nothing is executed, and nothing but the wanted numbers is in memory."""

import io
import math
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from easyllm.convert.safe_pickle import Place, read_pickle

PICKLE = "data.pkl"
LOCAL_HEADER_BYTES = 30


class Unreadable(Exception):
    """A file that is no whole torch.save archive; its text says why."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file."""

    path: Path
    start: int
    """Byte at which its storage begins."""
    place: Place

    @property
    def shape(self) -> tuple[int, ...]:
        return self.place.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.place.dtype

    def __getitem__(self, index: int) -> "StoredTensor":
        """One entry of the first dimension."""
        place = self.place
        at = place.offset + index * place.stride[0]
        return replace(self, place=replace(place, offset=at, shape=place.shape[1:], stride=place.stride[1:]))

    def read(self) -> torch.Tensor:
        """A copy in memory. Unreadable where the file ends before."""
        place = self.place
        if 0 in place.shape:
            return torch.empty(place.shape, dtype=place.dtype)
        span = 1 + sum((n - 1) * step for n, step in zip(place.shape, place.stride, strict=True))
        found = torch.empty(span, dtype=place.dtype)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + place.offset * place.dtype.itemsize)
            _fill(file, found.view(torch.uint8).numpy().data, self.path)
        if span == math.prod(place.shape) and _rows(place.shape, place.stride):
            return found.reshape(place.shape)
        return found.as_strided(place.shape, place.stride).clone(memory_format=torch.contiguous_format)


def _rows(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the numbers lie in the order of the indices."""
    step = 1
    for n, found in zip(reversed(shape), reversed(stride), strict=True):
        if n != 1 and found != step:
            return False
        step *= n
    return True


def _fill(file: io.FileIO, buffer: memoryview, path: Path) -> None:
    at = 0
    while at < len(buffer):  # one call gives 2 GB at most
        got = file.readinto(buffer[at:])
        if not got:
            raise Unreadable(f"{path} ends {len(buffer) - at:,} bytes too early")
        at += got


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, file: io.FileIO, start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._length - self._at)
        if wanted <= 0:
            return 0
        self._file.seek(self._start + self._at)
        got = self._file.readinto(memoryview(buffer)[:wanted])
        self._at += got
        return got


def open_torch_file(path: Path, start: int = 0, length: int | None = None) -> Any:
    """What torch.save wrote, tensors as StoredTensor. ``start`` and ``length`` in bytes, for one inside a file.

    Raises Unreadable.
    """
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        window = io.BufferedReader(_Window(file, start, size - start if length is None else length))
        try:
            with zipfile.ZipFile(window) as archive:
                return _read_archive(archive, file, start, path)
        except zipfile.BadZipFile as error:
            raise Unreadable(f"{path} is no archive of torch.save (PyTorch 1.6 or newer), or not whole") from error
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"{path}: {error}") from error


def _read_archive(archive: zipfile.ZipFile, file: io.FileIO, start: int, path: Path) -> Any:
    names = [name for name in archive.namelist() if name.rpartition("/")[2] == PICKLE and name.count("/") <= 1]
    if len(names) != 1:
        raise Unreadable(f"{path} is an archive, but not one of torch.save")
    root = names[0].removesuffix(PICKLE)
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise Unreadable(f"{path} was written by a machine with the other order of bytes")

    def begins(key: str) -> int:
        info = archive.getinfo(f"{root}data/{key}")
        if info.compress_type != zipfile.ZIP_STORED:
            raise Unreadable(f"{path} is compressed")
        file.seek(start + info.header_offset)
        header = file.read(LOCAL_HEADER_BYTES)
        name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        return start + info.header_offset + LOCAL_HEADER_BYTES + name + extra

    known: dict[str, int] = {}

    def stored(value: Any) -> Any:
        if isinstance(value, Place):
            key = value.storage.key
            if key not in known:
                known[key] = begins(key)
            return StoredTensor(path, known[key], value)
        if isinstance(value, dict):
            return {name: stored(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(stored(part) for part in value)
        return value

    return stored(read_pickle(archive.read(names[0])))
