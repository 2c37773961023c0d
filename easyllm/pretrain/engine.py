"""What the training loop asks of an engine; ``open_engine`` gives the one that the recipe names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from easyllm.core.megatron.architecture import Architecture
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.deepspeed_config import Extras

if TYPE_CHECKING:
    import torch

    from easyllm.core.families.weights import Weights
    from easyllm.core.megatron.checkpoint import Saving

Batches = Callable[[], Iterator[dict[str, Any]]]
"""Gives this rank's micro batches of one step from their start, as often as it is called."""


@dataclass(frozen=True)
class StepResult:
    """One optimizer step as every rank sees it."""

    loss: float
    learning_rate: float
    grad_norm: float
    """Before clipping. Not a number where fp16 overflowed: the step was skipped and the loss scale lowered."""


class Engine(Protocol):
    """A model in training on this rank. Every rank calls every method in the same order."""

    layers: tuple[str, str]
    """What the layers are made of, and why."""

    def train_step(self, batches: Batches, micro_batches: int, samples: int) -> StepResult:
        """One optimizer step over ``micro_batches`` of this rank, ``samples`` over all ranks."""

    def evaluate(self, batches: Batches, micro_batches: int) -> float:
        """Mean loss over all ranks' micro batches. Leaves no trace: neither gradients nor random numbers."""

    def save(self, path: Path, progress: dict[str, Any]) -> "Saving":
        """Begin to save everything that going on needs, and ``progress``; one at a time. Training may go on."""

    def load(self, path: Path) -> dict[str, Any]:
        """The inverse of save, on this or another layout; gives ``progress`` back."""

    def close(self) -> None:
        """Let go of what is not the process group's."""


def open_engine(
    architecture: Architecture,
    config: PretrainConfig,
    device: "torch.device",
    seed: int,
    extras: Extras | None = None,
    source: "Weights | None" = None,
) -> Engine:
    """The recipe's engine with fresh weights, or those of ``source``; call inside ``megatron_session``."""
    if config.engine == "deepspeed":
        from easyllm.pretrain.engine_deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(architecture, config, device, seed, extras or Extras(), source)
    from easyllm.pretrain.engine_megatron import MegatronEngine

    return MegatronEngine(architecture, config, device, seed, source)
