"""A model's tensors by name, read one at a time, wherever they lie."""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
"""safetensors' names of the types that weights have, and torch's."""


class Weights(Protocol):
    """Nothing is kept in memory but what ``read`` gives."""

    def names(self) -> list[str]:
        """Every tensor, in the order in which reading them is cheapest."""

    def shape(self, name: str) -> tuple[int, ...]:
        """KeyError where there is no such tensor."""

    def dtype(self, name: str) -> "torch.dtype":
        """As stored."""

    def read(self, name: str) -> "torch.Tensor":
        """The whole tensor, as stored. The caller may change it."""


def weight_files(directory: Path) -> list[Path]:
    """The safetensors that a Hugging Face directory has, or that its index names; none where there are neither."""
    index = directory / INDEX
    if index.is_file():
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        return [directory / name for name in sorted(names)]
    single = directory / SINGLE
    return [single] if single.is_file() else []


class HfFiles:
    """The safetensors of a Hugging Face directory. FileNotFoundError where there are none."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        index = directory / INDEX
        if index.is_file():
            self._file_of: dict[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
        else:
            if not (directory / SINGLE).is_file():
                raise FileNotFoundError(directory / SINGLE)
            self._file_of = dict.fromkeys(headers(directory / SINGLE), SINGLE)

    @cached_property
    def _header(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for file in sorted(set(self._file_of.values())):
            found |= headers(self._directory / file)
        return found

    def names(self) -> list[str]:
        return sorted(self._file_of, key=lambda name: (self._file_of[name], self._header[name]["data_offsets"]))

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._header[name]["shape"])

    def dtype(self, name: str) -> "torch.dtype":
        import torch

        found: torch.dtype = getattr(torch, DTYPES[self._header[name]["dtype"]])
        return found

    def read(self, name: str) -> "torch.Tensor":
        from safetensors import safe_open

        with safe_open(self._directory / self._file_of[name], "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor.clone()  # a copy: the file's pages need not stay in memory


class Rounded:
    """``weights`` in another dtype."""

    def __init__(self, weights: Weights, dtype: "torch.dtype") -> None:
        self._weights, self._dtype = weights, dtype

    def names(self) -> list[str]:
        return self._weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def dtype(self, name: str) -> "torch.dtype":
        return self._dtype

    def read(self, name: str) -> "torch.Tensor":
        return self._weights.read(name).to(self._dtype)


def equal_files(first: Path, second: Path) -> bool:
    """Whether two directories hold the same numbers under the same names; it reads until the first that differs."""
    import torch

    left, right = HfFiles(first), HfFiles(second)
    if set(left.names()) != set(right.names()):
        return False
    return all(left.shape(n) == right.shape(n) and torch.equal(left.read(n), right.read(n)) for n in left.names())


def headers(path: Path) -> dict[str, dict[str, Any]]:
    """dtype, shape and data_offsets by tensor name: a safetensors file begins with them.

    Raises ValueError where the file is another one or was cut.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError(f"{path.name} announces a header of {length:,} bytes and has {size:,} in all")
        header: dict[str, dict[str, Any]] = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{path.name} has no names in its header")
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != size:
        raise ValueError(f"{path.name} is cut: {size:,} bytes of {end:,}")
    return header
