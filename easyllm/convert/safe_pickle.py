"""Pickles from elsewhere, read without running anything that they name.

A checkpoint's pickle may name any function of any module to be called while it is read. Here a name stands for data:
containers, torch's tensors as places in a file, and for everything else an object that remembers what it was given.
"""

import argparse
import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}  # fmt: skip
BUILTINS = (set, frozenset, dict, list, tuple, int, float, complex, bool, str, bytes, bytearray, slice, range)


class Inert:
    """What an unknown class or function becomes: it keeps what it was given and does nothing."""

    named = ""
    """The name that the pickle gave."""

    def __init__(self, *arguments: Any, **_: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __new__(cls, *arguments: Any, **_: Any) -> "Inert":
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """A mapping's entries, dropped."""

    def append(self, value: Any) -> None:
        """A sequence's entries, dropped."""

    def extend(self, values: Any) -> None:
        """A sequence's entries, dropped."""

    def add(self, value: Any) -> None:
        """A set's entries, dropped."""

    def field(self, name: str, default: Any = None) -> Any:
        """An attribute that the object had."""
        return self.state.get(name, default) if isinstance(self.state, dict) else default

    def __repr__(self) -> str:
        return f"{self.named}{self.arguments!r}"


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file, by the key of its record."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Place:
    """Where a tensor's numbers lie: strides and offset in elements of ``dtype``."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _place(storage: Storage, offset: int, shape: Any, stride: Any, *_: Any) -> Place:
    return Place(storage, storage.dtype, offset, tuple(shape), tuple(stride))


def _place_with_dtype(storage: Storage, offset: int, shape: Any, stride: Any, *rest: Any) -> Place:
    return Place(storage, rest[2], offset, tuple(shape), tuple(stride))  # after requires_grad and hooks


def _bytes_of(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes written as {encoding}")
    return text.encode("latin1")


ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _place,
    "torch._utils._rebuild_tensor_v2": _place,
    "torch._utils._rebuild_tensor_v3": _place_with_dtype,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "_codecs.encode": _bytes_of,
    **{f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in BUILTINS},
}


class SafeUnpickler(pickle.Unpickler):
    """Gives data. A tensor becomes a Place, a namespace of arguments a Namespace, the rest Inert."""

    def __init__(self, file: io.BufferedIOBase | io.BytesIO) -> None:
        super().__init__(file, encoding="utf-8")
        # Made anew for every file: a pickle may set attributes of a class that it has been given.
        self._namespace = type("Namespace", (argparse.Namespace,), {})
        self._inert: dict[str, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in ("argparse.Namespace", "types.SimpleNamespace"):
            return self._namespace
        if module in ("torch", "torch.storage", "torch.cuda") and name in DTYPES:
            return DTYPES[name]
        if module == "torch" and isinstance(vars(torch).get(name), torch.dtype):
            return vars(torch)[name]
        if full in ALLOWED:
            return ALLOWED[full]
        return self._inert.setdefault(full, type(name.rpartition(".")[2], (Inert,), {"named": full}))

    def persistent_load(self, pid: Any) -> Storage:
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), *_):
                return Storage(key, dtype)
        raise pickle.UnpicklingError(f"a reference to {pid!r}")


def read_pickle(data: bytes) -> Any:
    """What a pickle holds. Raises ValueError, in words, for one that is broken."""
    try:
        return SafeUnpickler(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, MemoryError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
