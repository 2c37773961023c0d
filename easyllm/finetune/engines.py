"""How the ranks work on one model: as copies of it, or with its weights in shards (PyTorch's FSDP2).

Written on torch alone. accelerate's plugins count micro batches and average over ranks by themselves; here a loss
is already divided by the label tokens of all ranks, and what has to be made of the gradients is their sum.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from easyllm.finetune.config import FinetuneConfig

Named = dict[str, torch.Tensor]


class Engine(Protocol):
    """A model in training on this rank. Every rank calls every method, in the same order."""

    model: Any
    """What is called."""
    together: bool
    """Whether each pass of one rank needs one of all the others."""
    dtype: torch.dtype
    """What passes are computed in; gradients may overflow in fp16, and such a step is left out."""

    def autocast(self) -> AbstractContextManager[Any]: ...
    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """``loss`` is this rank's part of the step's loss; ``last`` of this step's passes."""

    def step(self, rate: float) -> float:
        """Sum the gradients over the ranks, clip, go one step; the norm before clipping, NaN where fp16 overflowed."""

    def weights(self) -> Named:
        """What is trained, whole, in fp32 on the CPU; meant for the first rank."""

    def state(self, folder: Path) -> dict[str, Any]:
        """Weights, moments and scale, whole, for the first rank to write; or nothing, and every rank's own files are in
        ``folder``."""

    def restore(self, state: dict[str, Any], folder: Path) -> None: ...


def rank_and_ranks() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def groups(trained: dict[str, torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, norms and biases do not."""
    parts = [
        (weight_decay, [p for p in trained.values() if p.dim() > 1]),
        (0.0, [p for p in trained.values() if p.dim() < 2]),
    ]
    return [{"params": weights, "weight_decay": decay} for decay, weights in parts if weights]


class Copies:
    """Every rank has the whole model. Gradients are summed once a step, in one piece a precision."""

    together = False

    def __init__(self, model: Any, config: FinetuneConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.model, self._device, self.dtype = model, device, dtype
        self._place()
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._optimizer = self._adam(groups(self._trained, config.weight_decay))
        self._longest = config.max_gradient_norm
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def _place(self) -> None:
        if not getattr(self.model, "is_quantized", False) or self.model.device != self._device:
            self.model.to(self._device)

    def _adam(self, parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
        # fused: 6.5 times faster on a CPU than the default, the same numbers to 6e-8.
        return torch.optim.AdamW(parameters, fused=True)

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.dtype)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self._scaler.scale(loss).backward()

    def step(self, rate: float) -> float:
        self._sum_gradients()
        self._scaler.unscale_(self._optimizer)
        norm = self._clip()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if math.isfinite(norm) or self._scaler.is_enabled():
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._optimizer.zero_grad()
        return norm

    def _sum_gradients(self) -> None:
        if rank_and_ranks()[1] == 1:
            return
        for parameter in self._trained.values():
            if parameter.grad is None:  # this rank had no row of the step
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self._trained.values() if p.grad is not None]
        for kind in {gradient.dtype for gradient in gradients}:
            alike = [gradient for gradient in gradients if gradient.dtype == kind]
            flat = _flatten_dense_tensors(alike)
            dist.all_reduce(flat)
            for gradient, summed in zip(alike, _unflatten_dense_tensors(flat, alike), strict=True):
                gradient.copy_(summed)

    def _clip(self) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self._longest)
        return float(self._whole(norm))

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def _part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return whole.to(like.device, like.dtype)

    def weights(self) -> Named:
        return {name: self._kept(p) for name, p in self._trained.items()}

    def _kept(self, tensor: torch.Tensor) -> torch.Tensor:
        whole = self._whole(tensor.detach())
        return whole.cpu().clone() if rank_and_ranks()[0] == 0 else torch.empty(0)

    def state(self, folder: Path) -> dict[str, Any]:
        moments = {
            name: {key: self._kept(value) for key, value in self._optimizer.state[p].items()}
            for name, p in self._trained.items()
        }
        return {"weights": self.weights(), "moments": moments, "scaler": self._scaler.state_dict()}

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        with torch.no_grad():
            for name, p in self._trained.items():
                p.copy_(self._part(state["weights"][name], p))
                found = state["moments"][name].items()
                self._optimizer.state[p] = {
                    key: value if key == "step" else self._part(value, p) for key, value in found
                }
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])


class Sharded(Copies):
    """Each rank keeps a part of every weight, gradient and moment, and gathers a layer as it is needed."""

    together = True

    def _place(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.model.to(self._device)
        mesh = init_device_mesh(self._device.type, (rank_and_ranks()[1],))
        for block in blocks(self.model):
            fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    def _adam(self, parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, foreach=False)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        super().backward(loss * rank_and_ranks()[1], last)  # it takes the mean over the ranks

    def _sum_gradients(self) -> None:
        """It has done so on the way back."""

    def _whole(self, tensor: torch.Tensor) -> torch.Tensor:
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def _part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor):
            return super()._part(whole, like)
        return distribute_tensor(whole.to(like.device, like.dtype), like.device_mesh, like.placements)


def blocks(model: Any) -> Iterator[torch.nn.Module]:
    """The repeated layers, as the model itself names their classes."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(inner._no_split_modules or ())
    return (module for module in inner.modules() if type(module).__name__ in names)
