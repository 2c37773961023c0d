"""The weights of a base with adapters in them, one tensor at a time; no model is ever whole in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper, load_peft_weights
from safetensors import safe_open
from transformers.quantizers import AutoHfQuantizer

from easyllm.core.errors import failed
from easyllm.core.families.weights import Weights
from easyllm.core.tuning import vocabulary
from easyllm.core.tuning.quantised import settings
from easyllm.core.tuning.targets import meta_model
from easyllm.merge.sources import WEIGHTS, Source


def changes_nothing(found: Sequence[Source]) -> bool:
    """Whether the adapters' files hold nothing but additions of zero."""
    return not any(source.weight and _changes(source.path / WEIGHTS) for source in found)


def _changes(path: Path) -> bool:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118  it is no dictionary
            added = ".lora_A." not in name and (".lora_" not in name or ".lora_B." in name)
            if added and bool(file.get_tensor(name).any()):
                return True
    return False


class Merged:
    """core.families.weights.Weights of the base in ``directory`` with ``found`` in it.

    A tensor is read from ``base``, becomes what its 8 or 4 bits stood for in training, and gets the additions, in
    fp32; it is given in the type that ``base`` stores it in, or with ``exact`` as it is. PEFT's own layers do the sums.
    """

    def __init__(self, base: Weights, directory: Path, found: Sequence[Source], exact: bool = False) -> None:
        self._base, self._exact = base, exact
        records = found[0].records
        self._record: Mapping[str, Any] | None = records.get("quantisation")
        model = meta_model(directory, records.get("vocabulary"))
        self._kinds = dict(model.named_modules())
        self._parameters = _names_in(model, base.names())
        self._quantised = _quantised_layers(directory, self._record)
        adapted = [_adapted(source.path, directory, records) for source in found]
        self._adapters = [(_layers(a), source.weight) for a, source in zip(adapted, found, strict=True)]
        self._whole = _kept_whole(adapted[0], directory)
        reached = set(self._parameters.values())
        for layers, _ in self._adapters:
            for path in layers:
                if f"{path}.weight" not in reached:
                    raise failed("MERGE-015", stage="merge", layer=path)

    def names(self) -> list[str]:
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        whole = self._whole.get(self._parameters[name])
        return self._base.shape(name) if whole is None else tuple(whole.shape)

    def dtype(self, name: str) -> torch.dtype:
        stored = self._base.dtype(name)
        return torch.float32 if self._exact and stored.is_floating_point else stored

    def read(self, name: str) -> torch.Tensor:
        return self._merged(name).to(self.dtype(name))

    def _merged(self, name: str) -> torch.Tensor:
        path = self._parameters[name]
        if path in self._whole:
            return self._whole[path].detach()
        tensor = self._base.read(name)
        if not tensor.is_floating_point():
            return tensor
        layer = path.removesuffix(".weight")
        if self._record:
            tensor = tensor.to(getattr(torch, self._record["compute_dtype"]))
        if layer in self._quantised and path.endswith(".weight"):
            assert self._record is not None
            tensor = dequantised(tensor, self._record, transposed=type(self._kinds[layer]).__name__ == "Conv1D")
        for layers, weight in self._adapters:
            if layer in layers and path.endswith(".weight"):
                tensor = _with_change(layers[layer], tensor.float(), weight)
        return tensor


@torch.no_grad()
def _with_change(layer: Any, tensor: torch.Tensor, weight: float) -> torch.Tensor:
    if not layer.lora_variant:
        change: torch.Tensor = layer.get_delta_weight("default")
        return tensor.add_(change, alpha=weight)
    inner = layer.get_base_layer()  # DoRA: PEFT merges what stands in the layer
    empty, inner.weight = inner.weight, torch.nn.Parameter(tensor, requires_grad=False)
    layer.merge()
    found: torch.Tensor = inner.weight.data
    layer.merged_adapters.clear()
    inner.weight = empty
    return found


@torch.no_grad()
def dequantised(tensor: torch.Tensor, record: Mapping[str, Any], transposed: bool) -> torch.Tensor:
    """What the 8 or 4 bits of a layer's weight stand for, on the CPU; ``transposed`` as GPT-2 stores its layers."""
    from bitsandbytes.nn.modules import Int8Params, Params4bit
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    device = "cuda" if torch.cuda.is_available() else "cpu"  # where transformers quantises
    matrix = tensor.T if transposed else tensor
    kind: Any = Int8Params if record["bits"] == 8 else Params4bit
    how: dict[str, Any] = {"compress_statistics": record.get("double"), "quant_type": record.get("type")}
    stored = kind(matrix.contiguous(), requires_grad=False, **({} if record["bits"] == 8 else how)).to(device)
    found: torch.Tensor = dequantize_bnb_weight(stored, stored).cpu()
    return found.T.contiguous() if transposed else found


def _quantised_layers(directory: Path, record: Mapping[str, Any] | None) -> set[str]:
    """Asked of transformers itself, on a model without weights."""
    if record is None:
        return set()
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    model = meta_model(directory)
    how = AutoHfQuantizer.from_config(settings(record))
    how.preprocess_model(model=model, device_map=None)
    return {name for name, module in model.named_modules() if isinstance(module, (Linear4bit, Linear8bitLt))}


def _names_in(model: Any, stored: list[str]) -> dict[str, str]:
    """Path in the model by name in the files: a base saved without its head has no prefix in its names."""
    known, prefix = set(model.state_dict()), f"{model.base_model_prefix}."
    found = {}
    for name in stored:
        forms = (name, prefix + name, name.removeprefix(prefix))
        found[name] = next((form for form in forms if form in known), name)
    head = f"{vocabulary.ends(model)[1]}.weight"
    strangers = [name for name, path in found.items() if path not in known and name.endswith(".weight")]
    if head not in found.values() and len(strangers) == 1:  # GPT-NeoX's files call it embed_out
        found[strangers[0]] = head
    return found


def _adapted(adapter: Path, directory: Path, records: Mapping[str, Any]) -> Any:
    """PEFT's layers on a base without weights; the adapter's own matrices are in them."""
    base = meta_model(directory, records.get("vocabulary"))
    model = PeftModel.from_pretrained(base, str(adapter), low_cpu_mem_usage=True, torch_device="cpu")
    # peft puts an adapter where its base lies, and this one lies nowhere: what it has just read is gone again.
    read = load_peft_weights(str(adapter), device="cpu")
    places = {_saved_as(name): name for name in model.state_dict()}
    for name in read:
        if name not in places:
            raise failed("MERGE-015", stage="merge", layer=name)
    model.load_state_dict({places[name]: tensor for name, tensor in read.items()}, strict=False, assign=True)
    return model.base_model.model


def _saved_as(name: str) -> str:
    """The name that peft saves an adapter's parameter by."""
    plain = name.replace(".modules_to_save.default.", ".").replace(".default.", ".")
    return plain.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def _layers(adapted: Any) -> dict[str, Any]:
    """PEFT's layer by the path that it has in the model."""
    return {name: module for name, module in adapted.named_modules() if isinstance(module, LoraLayer)}


def _kept_whole(adapted: Any, directory: Path) -> dict[str, torch.Tensor]:
    """Parameters that were trained whole, by path; a tied head is its embedding."""
    found = {
        f"{path}.{name}": value
        for path, module in adapted.named_modules() if isinstance(module, ModulesToSaveWrapper)
        for name, value in module.modules_to_save["default"].named_parameters() if not value.is_meta
    }  # fmt: skip
    plain = meta_model(directory)
    if found and vocabulary.tied(plain):
        embedding, head = (f"{name}.weight" for name in vocabulary.ends(plain))
        if embedding in found:
            found[head] = found[embedding]
    return found
