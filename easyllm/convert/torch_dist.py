"""Megatron's distributed checkpoints, read one tensor of one layer at a time, whatever layout wrote them.

Neither Megatron nor a process group is needed. In such a checkpoint the tensors of all layers are stacked under one
key and cut into chunks, each a torch.save archive at its place in a ``.distcp`` file; ``.metadata``, a pickle, says
where. What optimizers, random generators and fp8 scales left there is not looked at.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from easyllm.convert.iteration import METADATA
from easyllm.convert.safe_pickle import Inert, read_pickle
from easyllm.convert.torch_file import StoredTensor, Unreadable, open_torch_file
from easyllm.core.families.table import FUSED_NORMS

COMMON = "common.pt"
LAYERS = "decoder.layers."
NO_WEIGHTS = re.compile(r"(^|.*\.)(optimizer|_extra_state|rng_state|rerun_state_machine_state)(\.|/|$).*")
HALVES = ("_w", "_v")
"""Ends of two keys that together are gate and up-projection, where a run kept every shard apart."""
PREFIX = re.compile(r"(module\.|model\.)*(?=embedding\.word_embeddings\.weight$)")


@dataclass(frozen=True)
class _Chunk:
    """A box of a stacked tensor, and the archive that holds it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class _Stored:
    """A key of the file, or one entry of its first dimension."""

    key: str
    layer: int | None


class TorchDist:
    """The weights of a distributed checkpoint under the names of Megatron's local layers at tensor parallel 1.

    Unreadable where the directory holds none, or parts of it are missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._chunks: dict[str, list[_Chunk]] = {}
        self._read_metadata()
        self._parts: dict[str, tuple[_Stored, ...]] = {}
        prefixes = [found[0] for key in self._sizes if (found := PREFIX.match(key))]
        for key in self._sizes:
            self._name(key, prefixes[0] if prefixes else "")

    def names(self) -> list[str]:
        return sorted(self._parts, key=model_order)

    def shape(self, name: str) -> tuple[int, ...]:
        shapes = [self._sizes[part.key][0 if part.layer is None else 1 :] for part in self._parts[name]]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def dtype(self, name: str) -> torch.dtype:
        return self._dtypes[self._parts[name][0].key]

    def read(self, name: str) -> torch.Tensor:
        found = [self._read(part) for part in self._parts[name]]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _read_metadata(self) -> None:
        path = self._directory / METADATA
        if not path.is_file():
            raise Unreadable(f"{path} is missing")
        try:
            metadata = read_pickle(path.read_bytes())
            tensors, storage = metadata.field("state_dict_metadata"), metadata.field("storage_data")
            where = {(at.field("fqn"), tuple(at.field("offset") or ())): info for at, info in storage.items()}
            for key, said in tensors.items():
                if said.named.endswith(".TensorStorageMetadata") and not NO_WEIGHTS.match(key):
                    self._note(key, said, where)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise Unreadable(f"{path}: {type(error).__name__}: {error}") from error

    def _note(self, key: str, said: Inert, where: dict[tuple[str, tuple[int, ...]], Inert]) -> None:
        self._sizes[key] = tuple(said.field("size"))
        self._dtypes[key] = said.field("properties").state[0]
        self._chunks[key] = []
        for chunk in said.field("chunks"):
            offsets, info = tuple(chunk.field("offsets")), where[key, tuple(chunk.field("offsets"))]
            if info.field("transform_descriptors"):
                raise Unreadable(f"{key} is compressed in {self._directory}")
            path = self._directory / info.field("relative_path")
            place = path, int(info.field("offset")), int(info.field("length"))
            self._chunks[key].append(_Chunk(offsets, tuple(chunk.field("sizes")), *place))

    def _name(self, key: str, prefix: str) -> None:
        """Enter the tensors that ``key`` holds."""
        name = key.removeprefix(prefix)
        half = next((i for i, end in enumerate(HALVES) if name.endswith(f"linear_fc1.weight{end}")), None)
        if half is not None:
            name = name.removesuffix(HALVES[half])
        for fused, apart in FUSED_NORMS.items():
            name = name.replace(fused, apart)
        if name.startswith(LAYERS) and not name.removeprefix(LAYERS)[0].isdigit():
            rest = name.removeprefix(LAYERS)
            found = {f"{LAYERS}{n}.{rest}": _Stored(key, n) for n in range(self._sizes[key][0])}
        else:
            found = {name: _Stored(key, None)}
        for whole, part in found.items():
            have = self._parts.get(whole, ())
            self._parts[whole] = (*have, part) if half != 0 else (part, *have)

    def _read(self, part: _Stored) -> torch.Tensor:
        size = self._sizes[part.key]
        low = (0,) * len(size) if part.layer is None else (part.layer, *(0,) * (len(size) - 1))
        high = size if part.layer is None else (part.layer + 1, *size[1:])
        shape = size[0 if part.layer is None else 1 :]
        whole: torch.Tensor | None = None
        left = math.prod(shape)
        for chunk in self._chunks[part.key]:
            first = tuple(max(a, b) for a, b in zip(chunk.offsets, low, strict=True))
            last = tuple(min(a + n, b) for a, n, b in zip(chunk.offsets, chunk.sizes, high, strict=True))
            if any(a >= b for a, b in zip(first, last, strict=True)):
                continue
            piece = self._piece(chunk, part)
            left -= math.prod(piece.shape)
            if piece.shape == shape:
                return piece.read()
            if whole is None:
                whole = torch.empty(shape, dtype=piece.dtype)
            skip = 0 if part.layer is None else 1
            whole[tuple(slice(a, b) for a, b in zip(first[skip:], last[skip:], strict=True))] = piece.read()
        if left or whole is None:
            raise Unreadable(f"{self._directory} has not all of {part.key}")
        return whole

    def _piece(self, chunk: _Chunk, part: _Stored) -> StoredTensor:
        """The chunk's tensor; of a stack, its layer."""
        if not chunk.path.is_file():
            raise Unreadable(f"{chunk.path} is missing")
        piece: Any = open_torch_file(chunk.path, chunk.start, chunk.length)
        if not isinstance(piece, StoredTensor) or piece.shape != chunk.sizes:
            raise Unreadable(f"{chunk.path} does not hold what {METADATA} says of {part.key}")
        return piece if part.layer is None else piece[part.layer - chunk.offsets[0]]


def model_order(name: str) -> tuple[int, int, str]:
    """The embedding, layer after layer, the rest."""
    found = re.match(r"decoder\.layers\.(\d+)\.", name)
    return (1, int(found[1]), name) if found else (0 if name.startswith("embedding.") else 2, 0, name)


def common_values(directory: Path) -> dict[str, Any]:
    """What was saved beside the tensors: arguments, counters, our own record. Unknown objects are inert."""
    path = directory / COMMON
    if not path.is_file():
        raise Unreadable(f"{path} is missing")
    found = open_torch_file(path)
    if not isinstance(found, dict):
        raise Unreadable(f"{path} holds no dictionary")
    return found
