"""Which layers a base has, read from the file headers: no weights, no torch.

safetensors: 8 bytes with the header's length, then JSON (github.com/huggingface/safetensors, README).
GGUF: magic, version, counts, key-values, tensor table (github.com/ggml-org/ggml, docs/gguf.md).
"""

import json
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from easyllm.core.errors import Problem, problem, refuse
from easyllm.core.families.weights import headers

R = TypeVar("R")

_EXPERT = re.compile(r"\.experts\.\d+\.")
_BLOCK = re.compile(r"\.\d+\.")
_GGUF_LINEAR = {
    "attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj",
    "ffn_gate": "gate_proj", "ffn_up": "up_proj", "ffn_down": "down_proj",
}  # fmt: skip
_GGUF_WHOLE = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
_LEFT_AWAY = {"h": "transformer", "wte": "transformer", "word_embeddings": "transformer", "layers": "model"}
_GGUF_LIKE_LLAMA = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3")
_GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


@dataclass(frozen=True)
class Header:
    """What a model's files say of it before anything is loaded."""

    shapes: dict[str, tuple[int, ...]]
    """Of every tensor, by the name transformers gives it (a GGUF's own name where that is not known)."""
    context_tokens: int | None = None
    """Longest sequence the model was made for."""
    known_names: bool = True
    """False for a GGUF of a family whose names we cannot translate."""

    @property
    def parameters(self) -> int:
        return sum(self.size(name) for name in self.shapes)

    @property
    def linear(self) -> list[str]:
        """Paths of the matrices inside the repeated blocks; embeddings and output head stand outside of them.

        Experts are not among them, nor the router that chooses between them: transformers keeps all experts of a
        block in one tensor, whatever the file does.
        """
        names = [name.removesuffix(".weight") for name, shape in self.shapes.items() if len(shape) == 2]
        experts = any(_EXPERT.search(name) for name in names)
        inside = [name for name in names if _BLOCK.search(f".{name}.") and not _EXPERT.search(name)]
        return [name for name in inside if not (experts and name.endswith(".gate"))]

    def size(self, name: str) -> int:
        """Numbers in one tensor."""
        return prod(self.shapes[name])

    @property
    def modules(self) -> list[str]:
        """Paths of all that holds a tensor, and of what they stand in."""
        found: dict[str, None] = {}
        for name in self.shapes:
            parts = name.split(".")[:-1]
            found |= dict.fromkeys(".".join(parts[:n]) for n in range(len(parts), 0, -1))
        return list(found)

    def outputs(self, layer: str) -> int:
        """Width of what a linear layer gives; its bias tells where the file holds the matrix transposed (GPT-2)."""
        return self.shapes.get(f"{layer}.bias", self.shapes[f"{layer}.weight"])[0]


def read_header(path: Path | None) -> Header | None:
    """Header of a model directory or a .gguf file; None where there is none to read (a hub id, other weights).

    Raises UserError BASE-007 where a file is not what its name says (a cut download, a git-lfs pointer).
    """
    if path is None:
        return None
    if path.suffix == ".gguf" and path.is_file():
        return _whole(path, _gguf)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if not files:
        return None
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= _whole(file, _safetensors)
    shapes = {_full_name(name): shape for name, shape in shapes.items()}
    return Header(shapes, _whole(path / "config.json", context_tokens))


def _full_name(name: str) -> str:
    """h.0.attn -> transformer.h.0.attn: files of GPT-2 and Bloom leave away what transformers puts back."""
    first = name.partition(".")[0]
    return f"{_LEFT_AWAY[first]}.{name}" if first in _LEFT_AWAY else name


def _whole(path: Path, read: Callable[[Path], R]) -> R:
    try:
        return read(path)
    except (struct.error, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise refuse("BASE-007", stage="finetune", key="finetune.base", file=path, reason=str(error)) from error


def last_names(paths: Iterable[str]) -> list[str]:
    """The different last parts of module paths, in the order they come: q_proj, k_proj, ..."""
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def unknown_targets(targets: Iterable[str], linear: Iterable[str]) -> list[str]:
    """The targets that fit no layer; one fits by its full path or by the end of it, as PEFT does it."""
    paths = list(linear)
    return [t for t in targets if not any(path == t or path.endswith(f".{t}") for path in paths)]


def hit(targets: list[str] | str, paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that ``targets`` mean: names by the end of a path, a regular expression by all of it."""
    if isinstance(targets, str):
        return [path for path in paths if re.fullmatch(targets, path)]
    return [path for path in paths if len(unknown_targets(targets, [path])) < len(targets)]


def target_problems(targets: list[str] | str, linear: list[str], stage: str = "finetune") -> list[Problem]:
    """TARGET-001 when some names fit none of the ``linear`` layers; of an expression TARGET-002 and TARGET-003."""
    place: dict[str, Any] = {"stage": stage, "key": f"{stage}.lora.targets"}
    known = ", ".join(last_names(linear)) or "-"
    if isinstance(targets, str):
        try:
            found = hit(targets, linear)
        except re.error as error:
            return [problem("TARGET-002", **place, asked=targets, reason=str(error))]
        example = linear[0] if linear else "-"
        return [] if found else [problem("TARGET-003", **place, asked=targets, known=known, example=example)]
    unknown = unknown_targets(targets, linear)
    if not unknown and targets:
        return []
    return [problem("TARGET-001", **place, unknown=", ".join(unknown) or "[]", known=known)]


def inside(path: str, modules: Iterable[str]) -> bool:
    """Whether the layer is one of ``modules`` or stands in one; they are named by any part of their path."""
    return any(f".{name}." in f".{path}." for name in modules)


def covered_problems(
    targets: list[str] | str, saved: list[str], linear: list[str], stage: str = "finetune"
) -> list[Problem]:
    """TARGET-006 when every target stands in a layer that is trained whole, and no adapter would stand anywhere."""
    chosen = linear if targets == "auto" else hit(targets, linear)
    if not chosen or not all(inside(path, saved) for path in chosen):
        return []
    place: dict[str, Any] = {"stage": stage, "key": f"{stage}.lora.save_modules"}
    return [problem("TARGET-006", **place, saved=", ".join(saved), targets=", ".join(last_names(chosen)))]


def save_problems(saved: list[str], modules: Iterable[str], stage: str = "finetune") -> list[Problem]:
    """TARGET-004 when some of the ``saved`` layers are none of the ``modules``."""
    paths = list(modules)
    unknown = unknown_targets(saved, paths)
    if not unknown:
        return []
    known = ", ".join(name for name in last_names(paths) if name and not name.isdigit())
    place: dict[str, Any] = {"stage": stage, "key": f"{stage}.lora.save_modules"}
    return [problem("TARGET-004", **place, unknown=", ".join(unknown), known=known)]


def _safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(entry["shape"]) for name, entry in headers(path).items()}


def context_tokens(config: Path) -> int | None:
    """Positions that a config.json gives its model; None where it sets no limit."""
    if not config.is_file():
        return None
    values = json.loads(config.read_text("utf-8"))
    return next((values[k] for k in ("max_position_embeddings", "n_positions", "seq_length") if k in values), None)


def _gguf(path: Path) -> Header:
    with path.open("rb") as file:
        magic, _, tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF":
            raise ValueError(f"it begins with {magic!r}")
        values = dict(_gguf_pair(file) for _ in range(pairs))
        table = [_gguf_tensor(file) for _ in range(tensors)]
    family = str(values.get("general.architecture"))
    known = family in _GGUF_LIKE_LLAMA
    shapes = {_gguf_name(name) if known else name: shape for name, shape in table}
    return Header(shapes, values.get(f"{family}.context_length"), known)


def _gguf_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight, as transformers names it."""
    parts = name.split(".")
    if parts[0] in _GGUF_WHOLE:
        return ".".join([_GGUF_WHOLE[parts[0]], *parts[1:]])
    if parts[0] != "blk" or parts[2] not in _GGUF_LINEAR:
        return name
    linear = _GGUF_LINEAR[parts[2]]
    group = "self_attn" if parts[2].startswith("attn") else "mlp"
    return ".".join(["model.layers", parts[1], group, linear, *parts[3:]])


def _gguf_pair(file: BinaryIO) -> tuple[str, Any]:
    name = _gguf_string(file)
    (kind,) = struct.unpack("<I", file.read(4))
    return name, _gguf_value(file, kind)


def _gguf_value(file: BinaryIO, kind: int) -> Any:
    if kind == _GGUF_STRING:
        return _gguf_string(file)
    if kind != _GGUF_ARRAY:
        layout = f"<{_GGUF_SCALARS[kind]}"
        return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]
    inner, count = struct.unpack("<IQ", file.read(12))
    if inner in (_GGUF_STRING, _GGUF_ARRAY):
        for _ in range(count):
            _gguf_value(file, inner)
    else:
        file.seek(count * struct.calcsize(f"<{_GGUF_SCALARS[inner]}"), 1)
    return None  # vocabularies and merges: walked over, not kept


def _gguf_string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length).decode("utf-8", "replace")


def _gguf_tensor(file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    name = _gguf_string(file)
    (dimensions,) = struct.unpack("<I", file.read(4))
    shape = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
    file.seek(12, 1)  # its type and its offset
    return name, tuple(reversed(shape))
