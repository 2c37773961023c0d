"""Which layouts of a recipe's training fit a number of GPUs of a size: ``easyllm plan RECIPE --gpus --gpu-memory``."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from rich.cells import cell_len

from easyllm.core.megatron.architecture import Architecture, padded_vocabulary
from easyllm.core.megatron.layout import Layout
from easyllm.core.messages import say, term
from easyllm.core.sizes import human_bytes
from easyllm.pretrain.estimate import Memory, Training, memory

RESERVED = 0.1
"""Share of a GPU left to CUDA, NCCL and the allocator's holes. An assumption: the estimate has no part for them."""
SHOWN = 12
COLUMNS = (
    "tensor", "pipeline", "data", "states", "recompute", "total", "weights", "gradients", "optimizer", "activations",
)  # fmt: skip
RECOMPUTE: tuple[Literal["none", "selective", "full"], ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class Fit:
    """A layout that fits, and what it takes of each GPU."""

    training: Training
    cost: Memory

    def row(self) -> dict[str, Any]:
        """For programs: the keys to set in the recipe, and bytes by part."""
        return {
            "parallel": asdict(self.training.layout),
            "data_parallel": self.training.data,
            "recompute": self.training.recompute,
            "distributed_optimizer": self.training.distributed_optimizer,
            "zero_stage": self.training.zero,
            "offload_optimizer": self.training.offload_optimizer,
            "bytes": asdict(self.cost) | {"total": self.cost.total},
        }


@dataclass(frozen=True)
class Fits:
    """Every layout that fits ``gpus`` GPUs, best first."""

    found: list[Fit]
    gpus: int
    bytes_per_gpu: int
    assumed: str
    """In a person's words."""

    def text(self) -> str:
        """The best ``SHOWN`` under a title that says what was assumed."""
        numbers = {"gpus": self.gpus, "size": human_bytes(self.bytes_per_gpu), "reserved": RESERVED}
        if not self.found:
            return say("layouts_none", **numbers) + "\n"
        rows = [[term(name) for name in COLUMNS], *(_cells(fit) for fit in self.found[:SHOWN])]
        widths = [max(cell_len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        lines = ["  ".join(_right(*cell) for cell in zip(row, widths, strict=True)) for row in rows]
        more = [say("layouts_more", count=len(self.found) - SHOWN)] if len(self.found) > SHOWN else []
        title = say("layouts_title", assumed=self.assumed, **numbers)
        return "\n".join([title, *("  " + line for line in lines), *more]) + "\n"


def layouts_that_fit(a: Architecture, like: Training, gpus: int, bytes_per_gpu: int, global_samples: int) -> list[Fit]:
    """Every layout over ``gpus`` that fits, best first: the least work done twice, then the least divided, for what is
    divided talks. ``like`` says what all of them share; its engine decides which divisions there are."""  # fmt: skip
    room = bytes_per_gpu * (1 - RESERVED)
    found = []
    for training in _trainings(a, like, gpus, global_samples):
        padded = padded_vocabulary(a.tokenizer_size, training.layout.tensor)
        cost = memory(replace(a, padded_vocabulary=padded), training)
        if cost.total <= room:
            found.append(Fit(training, cost))
    return sorted(found, key=_rank)


def _rank(fit: Fit) -> tuple[Any, ...]:
    training = fit.training
    return (
        training.offload_optimizer,
        RECOMPUTE.index(training.recompute),
        training.layout.model_ranks,
        training.layout.pipeline,
        training.zero or 0,
    )


def _trainings(a: Architecture, like: Training, gpus: int, global_samples: int) -> Iterator[Training]:
    for tensor in _divisors(gpus):
        if a.heads % tensor or a.kv_heads % tensor or a.ffn_hidden % tensor:
            continue
        # DeepSpeed's own pipeline is another model class: refused by checks, so not offered.
        for pipeline in _divisors(gpus // tensor) if like.zero is None else [1]:
            data = gpus // tensor // pipeline
            micro_batches, left = divmod(global_samples, like.micro_samples * data)
            if a.layers % pipeline or left:
                continue
            layout = Layout(tensor=tensor, pipeline=pipeline, sequence=tensor > 1)
            spread = replace(like, layout=layout, data=data, micro_batches=micro_batches)
            yield from _ways(spread)


def _ways(spread: Training) -> Iterator[Training]:
    """One layout with every recomputation that saves something, and every ZeRO stage of engine deepspeed."""
    recomputations = [way for way in RECOMPUTE if not (spread.fused and way == "selective")]
    if spread.zero is None:
        for recompute in recomputations:  # dividing the states costs nothing, so where they can be, they are
            yield replace(spread, recompute=recompute, distributed_optimizer=spread.data > 1)
        return
    for recompute, zero, offload in product(recomputations, range(4) if spread.data > 1 else [0], [False, True]):
        if not offload or zero > 0:  # offloading is part of ZeRO
            yield replace(spread, recompute=recompute, zero=zero, offload_optimizer=offload)


def _divisors(number: int) -> list[int]:
    return [candidate for candidate in range(1, number + 1) if number % candidate == 0]


def _cells(fit: Fit) -> list[str]:
    training, layout, cost = fit.training, fit.training.layout, fit.cost
    if training.zero is None:
        optimizer = "distributed" if training.distributed_optimizer else "copies"
    else:
        optimizer = f"ZeRO {training.zero}" + (" offload" if training.offload_optimizer else "")
    sizes = [cost.total, cost.weights, cost.gradients, cost.optimizer, cost.activations]
    parts = [str(layout.tensor), str(layout.pipeline), str(training.data), optimizer, training.recompute]
    return parts + [human_bytes(size) for size in sizes]


def _right(text: str, width: int) -> str:
    """Flush right; Chinese characters are two cells wide."""
    return " " * (width - cell_len(text)) + text
