"""An adapter's files before a weight is read: is it LoRA and nothing else, does it stand on this base? No torch."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Manifest, read_manifest
from easyllm.core.errors import Problem, UserError, problem, refuse
from easyllm.core.families.weights import headers
from easyllm.core.messages import say
from easyllm.core.tuning.layers import Header, last_names, unknown_targets

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BYTES_PER_VALUE = 4
"""Adapters compute in fp32 whatever they are stored in, as PEFT has it."""
_MATRIX = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
_BLOCK = re.compile(r"\.\d+\.")
_UNDERSTOOD = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
    "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip
"""Keys of adapter_config.json that are honoured, or that say nothing about an answer. Any other must be unset."""
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the base as it is; pissa, olora, loftq and the like change it as they load."""
_BESIDE_THE_START = {"eva": ("eva_config",)}
_NOTHING: dict[str, tuple[Any, ...]] = {"bias": ("none",), "runtime_config": ({"ephemeral_gpu_offload": False},)}


@dataclass(frozen=True)
class AdapterFiles:
    """What an adapter's directory says of it."""

    name: str
    path: Path
    config: Mapping[str, Any]
    """PEFT's adapter_config.json."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of every tensor in its file."""
    manifest: Manifest | None
    """Where easyllm made it."""

    @property
    def layers(self) -> dict[str, dict[str, str]]:
        """By the path of a layer, the names of its tensors: {"A": ..., "B": ...}."""
        found: dict[str, dict[str, str]] = {}
        for name in self.shapes:
            matrix = _MATRIX.fullmatch(name)
            if matrix:
                found.setdefault(matrix["path"], {})[matrix["side"]] = name
        return found

    @property
    def rank(self) -> int:
        """The largest of any layer."""
        return max(self.shapes[names["A"]][0] for names in self.layers.values())

    @property
    def bytes(self) -> int:
        """In memory."""
        return sum(math.prod(shape) for shape in self.shapes.values()) * BYTES_PER_VALUE

    def rank_of(self, path: str) -> int:
        """The rank that the configuration gives a layer."""
        return int(_by_pattern(self.config.get("rank_pattern"), path, self.config["r"]))

    def scale_of(self, path: str) -> float:
        """What the adapter's product is multiplied by at a layer."""
        alpha = _by_pattern(self.config.get("alpha_pattern"), path, self.config["lora_alpha"])
        rank = self.rank_of(path)
        return float(alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank)


def _by_pattern(pattern: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """As PEFT looks it up (utils/other.py, get_pattern_key): the first key that the end of the path matches."""
    return next((value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", path)), default)


def read_files(name: str, path: Path, key: str) -> AdapterFiles:
    """The adapter in ``path``. Raises UserError SERVE-050 where it is none, SERVE-051 where it is more than LoRA."""
    try:
        config = json.loads((path / CONFIG).read_text("utf-8"))
        shapes = {name: tuple(entry["shape"]) for name, entry in headers(path / WEIGHTS).items()}
        files = AdapterFiles(name, path, config, shapes, read_manifest(path))
        numbers = [config["r"], config["lora_alpha"]] if isinstance(config, dict) else []
        if numbers:
            numbers += [number for path in files.layers for number in (files.rank_of(path), files.scale_of(path))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, re.error) as error:
        missing = f"{Path(error.filename).name}: {error.strerror}" if isinstance(error, OSError) else ""
        reason = missing or f"{type(error).__name__}: {error}"
        raise refuse("SERVE-050", stage="serve", key=key, name=name, path=str(path), reason=reason) from error
    if not numbers or not all(isinstance(number, (int, float)) and 0 < number < math.inf for number in numbers):
        reason = say("adapter_not_numbers", file=CONFIG)
        raise refuse("SERVE-050", stage="serve", key=key, name=name, path=str(path), reason=reason)
    more = more_than_lora(files)
    if more:
        raise refuse("SERVE-051", stage="serve", key=key, name=name, more=", ".join(more))
    if not files.layers or any(set(sides) != {"A", "B"} for sides in files.layers.values()):
        reason = say("adapter_not_pairs", file=WEIGHTS)
        raise refuse("SERVE-050", stage="serve", key=key, name=name, path=str(path), reason=reason)
    return files


def more_than_lora(files: AdapterFiles) -> list[str]:
    """What the adapter does besides adding two small matrices, each as ``key: value``."""
    config = files.config
    start = config.get("init_lora_weights", True)
    known = _UNDERSTOOD | {"init_lora_weights"} | set(_BESIDE_THE_START.get(str(start), ()))
    found = [] if config.get("peft_type") == "LORA" else [f"peft_type: {config.get('peft_type')}"]
    if start not in _PLAIN_STARTS:
        found.append(f"init_lora_weights: {start}")
    for key, value in config.items():
        if key not in known and value and value not in _NOTHING.get(key, ()):
            found.append(f"{key}: {value}")
    quantised = files.manifest.records.get("quantisation") if files.manifest else None
    if quantised:
        found.append(say("adapter_quantised_base", bits=quantised["bits"]))
    if not found:
        found = [name for name in files.shapes if not _MATRIX.fullmatch(name)][:3]
    return found


def fit_problems(files: AdapterFiles, layers: Mapping[str, tuple[int, int]], key: str) -> list[Problem]:
    """SERVE-053 where the adapter has other layers than ``layers``, which gives (inputs, outputs) by path."""
    wrong = []
    for path, names in files.layers.items():
        down, up = files.shapes[names["A"]], files.shapes[names["B"]]
        there = layers.get(path)
        if there is None:
            wrong.append(say("adapter_no_layer", layer=path))
        elif (down, up) != ((files.rank_of(path), there[0]), (there[1], files.rank_of(path))):
            wrong.append(say("adapter_other_shape", layer=path, adapter=f"{down[1:]}->{up[:1]}", base=there))
    targets = files.config.get("target_modules")
    if isinstance(targets, list):
        wrong += [say("adapter_no_layer", layer=name) for name in unknown_targets(targets, layers)]
    if not wrong:
        return []
    told = "; ".join(wrong[:3])
    return [problem("SERVE-053", stage="serve", key=key, name=files.name, count=len(wrong), told=told)]


def header_layers(header: Header, files: AdapterFiles) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the base's linear layers as far as its file headers tell.

    transformers may name a layer otherwise than the file does. So a layer that the file does not know is taken as
    fitting here, unless the file has the same one in another block; the model itself is asked when it is loaded.
    """
    found = {}
    for path in header.linear:
        outputs = header.outputs(path)
        found[path] = (header.size(f"{path}.weight") // outputs, outputs)
    blocks = {_BLOCK.sub(".*.", path) for path in found}
    for path, names in files.layers.items():
        if path not in found and _BLOCK.sub(".*.", path) not in blocks and last_names([path])[0] in last_names(found):
            found[path] = (files.shapes[names["A"]][1], files.shapes[names["B"]][0])
    return found


def base_problems(files: AdapterFiles, digest: str | None, key: str) -> list[Problem]:
    """SERVE-052 where the adapter's manifest names a base of other content than ``digest``."""
    record = files.manifest.records.get("base") if files.manifest else None
    if not record or digest is None or record["digest"] == digest:
        return []
    told = {"ref": record["ref"], "trained": str(record["digest"])[:12], "served": digest[:12]}
    return [problem("SERVE-052", stage="serve", key=key, name=files.name, **told)]


def rank_problems(files: AdapterFiles, most_rank: int, key: str) -> list[Problem]:
    """SERVE-056 for an adapter of too large a rank."""
    if files.rank <= most_rank:
        return []
    told: dict[str, Any] = {"what": say("adapter_limit_rank", name=files.name), "asked": files.rank, "most": most_rank}
    return [problem("SERVE-056", stage="serve", key=key, setting="serve.max_adapter_rank", **told)]


def room_problems(count: int, total_bytes: int, most: int, most_bytes: int, key: str) -> list[Problem]:
    """SERVE-056 for too many adapters, or too many bytes of them, at once."""
    found = []
    told: dict[str, Any]
    if count > most:
        told = {"what": say("adapter_limit_count"), "asked": count, "most": most}
        found.append(problem("SERVE-056", stage="serve", key=key, setting="serve.max_adapters", **told))
    if total_bytes > most_bytes:
        told = {"what": say("adapter_limit_bytes"), "asked": f"{total_bytes:,}", "most": f"{most_bytes:,}"}
        found.append(problem("SERVE-056", stage="serve", key=key, setting="serve.max_adapters_gb", **told))
    return found


def require(problems: list[Problem]) -> None:
    """Raise UserError with all of them, if there are any."""
    if problems:
        raise UserError(*problems)
