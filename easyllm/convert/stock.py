"""The Hugging Face side of the proof: stock classes over weights that are read as they are needed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from easyllm.convert.stream import built_empty, cut, rows, streamed
from easyllm.convert.trace import Trace, traced
from easyllm.core.errors import failed
from easyllm.core.families.weights import HfFiles, Weights

NAME = "transformers"
SOME = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class Stock:
    """A model as transformers loads it: its configuration, and its weights by the names of the stock class."""

    config: Any
    weights: Weights

    @classmethod
    def of(cls, directory: Path) -> "Stock":
        from transformers import AutoConfig

        return cls(AutoConfig.from_pretrained(directory), HfFiles(directory))

    def dtype(self) -> str:
        """In which most of its numbers are stored."""
        numbers: dict[str, int] = {}
        for name in self.weights.names():
            dtype = str(self.weights.dtype(name)).removeprefix("torch.")
            numbers[dtype] = numbers.get(dtype, 0) + torch.Size(self.weights.shape(name)).numel()
        return max(numbers, key=lambda dtype: numbers[dtype])

    def logits(self, prompts: list[list[int]], dtype: str) -> dict[str, torch.Tensor]:
        """[tokens, vocabulary] by the number of the prompt. StageFailed PARITY-006 where names or shapes differ."""
        out = _run(self._empty(dtype), self.weights, rows(prompts))
        return cut(out, prompts, out.shape[-1])

    def trace(self, ids: list[int], modules: set[str], positions: slice, dtype: str) -> Trace:
        """What goes into and out of ``modules``, named as in the files, at ``positions`` of one prompt."""
        model = self._empty(dtype)
        stored = _stored(model, self.weights)
        own = {_module(name): _module(stored[name]) for name in stored if name not in model.all_tied_weights_keys}
        with traced(model, {name: called for name, called in own.items() if called in modules}, positions) as found:
            _run(model, self.weights, rows([ids]))
        return found

    def _empty(self, dtype: str) -> Any:
        from transformers import AutoModelForCausalLM

        return built_empty(lambda: AutoModelForCausalLM.from_config(self.config, dtype=getattr(torch, dtype)))


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _run(model: Any, weights: Weights, ids: torch.Tensor) -> torch.Tensor:
    def forward(model: Any) -> torch.Tensor:
        logits: torch.Tensor = model(ids, use_cache=False).logits
        return logits

    return streamed(model, weights, _stored(model, weights), forward, "logits of transformers")


def _stored(model: Any, weights: Weights) -> dict[str, str]:
    """The name in the files of each of the model's tensors, as stock loading finds it; a tied one is its twin's."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    loaded = {name: stored for stored, name in _loaded_as(model, shapes, weights.names()).items()}
    twins: dict[str, str] = model.all_tied_weights_keys
    found = {name: loaded.get(name) or loaded.get(twins.get(name, "")) for name in shapes}
    unread = ("rotary_emb.inv_freq", *(model._keys_to_ignore_on_load_unexpected or ()))
    lists = {
        "missing": [name for name, stored in found.items() if stored is None],
        "unknown": [name for name in loaded.keys() - shapes.keys() if not any(re.search(one, name) for one in unread)],
        "odd": [name for name, stored in found.items() if stored and weights.shape(stored) != shapes[name]],
    }
    if any(lists.values()):
        named = {key: ", ".join(sorted(names)[:SOME]) or "-" for key, names in lists.items()}
        raise failed("PARITY-006", hf_class=type(model).__name__, **named)
    return {name: stored for name, stored in found.items() if stored}


def _loaded_as(model: Any, shapes: dict[str, Any], names: list[str]) -> dict[str, str]:
    """What stock loading makes of a name in the files: old names renamed, the prefix of a bare model's files added."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)]
    return {name: rename_source_key(name, renamings, [], model.base_model_prefix, shapes)[0] for name in names}
