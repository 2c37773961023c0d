"""A forward pass of a model that is never in memory: each module's weights are read as its turn comes, then let go."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.hooks import attach_align_device_hook

from easyllm.core.families.weights import Weights
from easyllm.core.memory import give_memory_back
from easyllm.core.progress import progress

CPU = torch.device("cpu")
GIVE_BACK_BYTES = 32_000_000


class _Read(Mapping[str, torch.Tensor]):
    """What accelerate's hooks ask for weights by the model's names."""

    def __init__(self, weights: Weights, stored: Mapping[str, str], seen: Callable[[], None]) -> None:
        self._weights, self._stored, self._seen = weights, stored, seen
        self._read_bytes = 0

    def __getitem__(self, name: str) -> torch.Tensor:
        # Tensors of all sizes come and go, and what glibc keeps between them grows with the model: 0.5 GB at 1B.
        if self._read_bytes > GIVE_BACK_BYTES:
            self._read_bytes = 0
            give_memory_back()
        tensor = self._weights.read(self._stored[name])
        self._read_bytes += tensor.nbytes
        self._seen()
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def built_empty(build: Callable[[], Any]) -> Any:
    """What ``build`` makes, for a forward pass, parameters on the meta device, buffers where they belong."""
    with init_empty_weights(include_buffers=False):
        model = build()
    return model.eval().requires_grad_(False)


def streamed(
    model: Any, weights: Weights, stored: Mapping[str, str], run: Callable[[Any], torch.Tensor], bar_name: str
) -> torch.Tensor:
    """``run(model)``, once, of a model that was built empty; tensors are cast to the model's dtype as they are read.

    ``stored`` has the name in ``weights`` of each of the model's tensors. Every tensor is read once, under a progress
    bar of that name.
    """
    with progress(bar_name, len(stored), "tensors") as bar:
        attach_align_device_hook(model, CPU, offload=True, weights_map=_Read(weights, stored, bar.advance))
        with torch.inference_mode():
            return run(model)


def rows(prompts: list[list[int]]) -> torch.Tensor:
    """[prompts, longest] ids, padded on the right: no position sees what comes after it, so it takes no mask."""
    longest = max(map(len, prompts))
    return torch.tensor([ids + [0] * (longest - len(ids)) for ids in prompts])


def cut(logits: torch.Tensor, prompts: list[list[int]], vocabulary: int) -> dict[str, torch.Tensor]:
    """[tokens, vocabulary] by the number of the prompt: without the padding of either side."""
    return {str(i): logits[i, : len(ids), :vocabulary].contiguous() for i, ids in enumerate(prompts)}
