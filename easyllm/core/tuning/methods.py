"""What a method of tuning uses, needs and costs. Pure, no torch: checks and plans ask it before anything is loaded."""

from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from easyllm.core.errors import Problem, problem
from easyllm.core.messages import say
from easyllm.core.section import Section
from easyllm.core.tuning.config import Lora, Method, Quantisation
from easyllm.core.tuning.layers import Header, hit

_USED: dict[str, tuple[Method, ...]] = {
    "lora": ("lora", "int8", "qlora"),
    "quantisation.four_bit_type": ("qlora",),
    "quantisation.double": ("qlora",),
    "quantisation.int8_threshold": ("int8",),
}
"""Methods that use a key, or all keys of a section."""

BYTES_TRAINED = 16
"""Of a trained parameter: itself, its gradient and AdamW's two moments, all in fp32."""


class Tuning(Protocol):
    """What every section that tunes a model has."""

    @property
    def method(self) -> Method: ...
    @property
    def lora(self) -> Lora: ...
    @property
    def quantisation(self) -> Quantisation: ...


def idle_keys(section: Section, method: Method, stage: str) -> list[Problem]:
    """TRAIN-011 for every key that the user set and ``method`` has no use for."""
    problems = []
    for key, methods in _USED.items():
        if method not in methods and _is_set(section, key.split(".")):
            useful = ", ".join(methods)
            problems.append(problem("TRAIN-011", stage=stage, key=f"{stage}.{key}", method=method, methods=useful))
    return problems


def _is_set(section: Section, path: list[str]) -> bool:
    if path[0] not in section.model_fields_set:
        return False
    return len(path) == 1 or _is_set(getattr(section, path[0]), path[1:])


def bitsandbytes_problems(method: Method, stage: str) -> list[Problem]:
    """TRAIN-010 where ``method`` needs bitsandbytes and it is not installed; whether it runs is for the run to find."""
    if method not in ("int8", "qlora"):
        return []
    try:
        version("bitsandbytes")
    except PackageNotFoundError:
        reason = say("not_installed")
        return [problem("TRAIN-010", stage=stage, key=f"{stage}.method", reason=reason)]
    return []


def trained_parameters(config: Tuning, header: Header) -> int:
    """How many numbers the method trains; layers that a grown vocabulary adds are not known yet."""
    if config.method == "full":
        return header.parameters
    lora, saved = config.lora, [] if config.lora.save_modules == "auto" else config.lora.save_modules
    chosen = header.linear if lora.targets == "auto" else hit(lora.targets, header.linear)
    pairs = sum(lora.rank * sum(header.shapes[f"{name}.weight"]) for name in chosen)
    lengths = sum(header.outputs(name) for name in chosen) if lora.dora else 0
    return pairs + lengths + sum(header.size(name) for name in header.shapes if _within(name, saved))


def _within(name: str, modules: list[str]) -> bool:
    return any(f".{module}." in f".{name}" for module in modules)


def weight_bytes(config: Tuning, header: Header) -> int:
    """Memory of the base's weights: fp32, and its linear layers in 8 or 4 bits where the method stores them so.

    QLoRA's blocks of 64 share a scale of 32 bits; with ``double`` it takes 8, and 256 of them share another of 32.
    """
    linear = sum(header.size(f"{name}.weight") for name in header.linear)
    bits = 4 + (8 / 64 + 32 / (64 * 256) if config.quantisation.double else 32 / 64)
    stored = {"int8": 1.0, "qlora": bits / 8}.get(config.method, 4.0)
    return round((header.parameters - linear) * 4 + linear * stored)
