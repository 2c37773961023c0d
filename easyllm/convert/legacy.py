"""Megatron-LM's checkpoints of one file a rank, put together tensor by tensor.

``mp_rank_TT_PPP/model_optim_rng.pt`` holds what one rank had under the names of Megatron-Core's layers or of the
layers before it. Layers are counted from the rank's first one; a rank with several shares of the layers has them as
model0, model1 and so on. Only the places of the tensors are in memory until one is read.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from easyllm.convert.torch_dist import model_order
from easyllm.convert.torch_file import StoredTensor, Unreadable, open_torch_file
from easyllm.core.families.table import FUSED_NORMS

FILE = "model_optim_rng.pt"
RANK = re.compile(r"mp_rank_(\d+)(?:_(\d+))?")
LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
OLDEST_VERSION = 2.0
"""Of Megatron-LM's checkpoint_version: before it, queries, keys and values stood in another order."""
BEFORE_CORE = (
    (r"^language_model\.", ""),
    (r"^embedding\.(word|position)_embeddings\.", r"embedding.\1_embeddings."),
    (r"^(encoder|transformer)\.", "decoder."),
    (r"\.(self_)?attention\.query_key_value\.", ".self_attention.linear_qkv."),
    (r"\.(self_)?attention\.dense\.", ".self_attention.linear_proj."),
    (r"\.mlp\.dense_h_to_4h\.", ".mlp.linear_fc1."),
    (r"\.mlp\.dense_4h_to_h\.", ".mlp.linear_fc2."),
    (r"\.input_norm\.", ".input_layernorm."),
    (r"\.post_attention_(layer)?norm\.", ".pre_mlp_layernorm."),
    (r"^decoder\.final_norm\.", "decoder.final_layernorm."),
    (r"^word_embeddings_for_head\.", "output_layer."),
)
"""Names before Megatron-Core, nested dictionaries joined by dots, and what they became; applied in this order."""
NO_WEIGHTS = ("_extra_state", "inv_freq")
CUT_ROWS = ("word_embeddings.weight", "output_layer.weight", "linear_qkv.weight", "linear_qkv.bias", "linear_fc1.bias",
            "linear_fc1.weight")  # fmt: skip
CUT_COLUMNS = ("linear_proj.weight", "linear_fc2.weight")
GATED = ("linear_fc1.weight", "linear_fc1.bias")


class OldOrder(Exception):
    """Queries, keys and values in the order of a checkpoint_version before 2; its argument is the version."""


@dataclass(frozen=True)
class _Cut:
    """A whole tensor's parts on the tensor parallel ranks, in their order."""

    parts: tuple[StoredTensor, ...]
    dim: int | None
    """None: every rank has all of it."""
    halves: int
    """2 where each part is [gate, up]."""


class LegacyRanks:
    """The weights of a checkpoint with a file a rank, under the names of Megatron's local layers.

    ``values`` are what the first rank saved beside them. Unreadable where a file is missing or not whole; OldOrder.
    """

    def __init__(self, directory: Path) -> None:
        files = _files(directory)
        self._cut: dict[str, _Cut] = {}
        first_layer = 0
        shares = 1
        by_stage: list[list[dict[str, Any]]] = []
        for stage in files:
            by_stage.append([_open(path) for path in stage])
        self.values: dict[str, Any] = {k: v for k, v in by_stage[0][0].items() if not _is_model(k) and k != "optimizer"}
        version = float(self.values.get("checkpoint_version", 0))
        if version < OLDEST_VERSION:
            raise OldOrder(version)
        arguments = self.values.get("args")
        self._gated = bool(getattr(arguments, "swiglu", False))
        self._tied = not getattr(arguments, "untie_embeddings_and_output_weights", False)
        shares = max(sum(map(_is_model, rank)) for rank in by_stage[0])
        # Shares go round: every stage's first one, then every stage's second one.
        for share in range(shares):
            for stage_ranks in by_stage:
                key = "model" if shares == 1 else f"model{share}"
                first_layer += self._enter([dict(_flat(rank[key])) for rank in stage_ranks], first_layer)

    def _enter(self, ranks: list[dict[str, StoredTensor]], first_layer: int) -> int:
        """Note the tensors of one share of the layers; gives how many layers it has."""
        layers = set()
        for name in ranks[0]:
            found = LAYER.match(name)
            whole = name
            if found:
                layers.add(int(found[1]))
                whole = f"decoder.layers.{first_layer + int(found[1])}.{name[found.end() :]}"
            if whole == "output_layer.weight" and self._tied:
                continue  # the last stage's copy of the embedding
            try:
                parts = tuple(rank[name] for rank in ranks)
            except KeyError as error:
                raise Unreadable(f"a tensor parallel rank has no {name}") from error
            self._cut[whole] = self._as_cut(whole, parts)
        return len(layers)

    def _as_cut(self, name: str, parts: tuple[StoredTensor, ...]) -> _Cut:
        if name.endswith(CUT_COLUMNS):
            return _Cut(parts, 1, 1)
        if name.endswith(CUT_ROWS):
            return _Cut(parts, 0, 2 if self._gated and name.endswith(GATED) else 1)
        return _Cut(parts[:1], None, 1)

    def names(self) -> list[str]:
        return sorted(self._cut, key=model_order)

    def shape(self, name: str) -> tuple[int, ...]:
        cut = self._cut[name]
        shape = list(cut.parts[0].shape)
        if cut.dim is not None:
            shape[cut.dim] = sum(part.shape[cut.dim] for part in cut.parts)
        return tuple(shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._cut[name].parts[0].dtype

    def read(self, name: str) -> torch.Tensor:
        cut = self._cut[name]
        if cut.dim is None or len(cut.parts) == 1:
            return cut.parts[0].read()
        whole = torch.empty(self.shape(name), dtype=self.dtype(name))
        at, half = 0, self.shape(name)[cut.dim] // cut.halves
        for part in cut.parts:
            rows = part.shape[cut.dim] // cut.halves
            for i, piece in enumerate(part.read().split(rows, cut.dim)):
                whole.narrow(cut.dim, i * half + at, rows).copy_(piece)
            at += rows
        return whole


def _files(directory: Path) -> list[list[Path]]:
    """The ranks' files, by pipeline stage and tensor parallel rank."""
    found: dict[tuple[int, int], Path] = {}
    for path in directory.glob(f"mp_rank_*/{FILE}"):
        rank = RANK.fullmatch(path.parent.name)
        if rank:
            found[int(rank[2] or 0), int(rank[1])] = path
    if not found:
        raise Unreadable(f"{directory} has no mp_rank_*/{FILE}")
    stages, ranks = (1 + max(place[i] for place in found) for i in (0, 1))
    missing = [(t, p) for p in range(stages) for t in range(ranks) if (p, t) not in found]
    if missing:
        names = ", ".join(f"mp_rank_{t:02d}" + (f"_{p:03d}" if stages > 1 else "") for t, p in missing)
        raise Unreadable(f"{directory} has no {FILE} of {names}")
    return [[found[stage, rank] for rank in range(ranks)] for stage in range(stages)]


def _open(path: Path) -> dict[str, Any]:
    found = open_torch_file(path)
    if not isinstance(found, dict) or not any(map(_is_model, found)):
        raise Unreadable(f"{path} holds no model")
    return found


def _is_model(key: str) -> bool:
    return re.fullmatch(r"model\d*", key) is not None


def _flat(model: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, StoredTensor]]:
    """Every tensor under the name that Megatron-Core's local layers give it."""
    for key, value in model.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, StoredTensor) and not name.endswith(NO_WEIGHTS):
            yield core_name(name), value


def core_name(name: str) -> str:
    """The name that Megatron-Core's local layers give to a tensor."""
    name = name.removeprefix("module.")
    for old, new in BEFORE_CORE:
        name = re.sub(old, new, name)
    for fused, apart in FUSED_NORMS.items():
        name = name.replace(fused, apart)
    return name
