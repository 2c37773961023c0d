"""Megatron-Core 0.16.1 on a machine without CUDA, over gloo.

Upstream has no CPU path: it asks CUDA where to put buffers, names the device "cuda" in calls, and checks tensor
types by their CUDA names. The patches below answer those questions with the CPU. They act on the whole process,
so only rank programs install them, never the pipeline's own process. Call ``install`` before the first import of
megatron.core and ``patch_megatron`` right after it; where torch sees CUDA, both refuse.

``PATCHES`` is the whole list with the upstream lines that force each (below megatron/core). A test runs a real
training step under ``trace`` and fails for a patch that upstream does not call any more.
"""

import collections
import logging
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Patch:
    """One lie we tell Megatron, and who makes us."""

    name: str
    does: str
    forced_by: str


PATCHES = (
    Patch(
        "current_device",
        "torch.cuda.current_device() is the CPU",
        "distributed/param_and_grad_buffer.py:800, 806; models/common/embeddings/rotary_pos_embedding.py:162; "
        "dist_checkpointing/strategies/state_dict_saver.py:252",
    ),
    Patch(
        "device_argument",
        'device="cuda" in any torch call means the CPU',
        "optimizer/clip_grads.py:103, 174; optimizer/optimizer.py:907; pipeline_parallel/schedules.py:596; "
        "transformer/utils.py:35",
    ),
    Patch(
        "tensor_type",
        "Tensor.type() of a CPU tensor gives the CUDA name",
        "optimizer/clip_grads.py:167 asserts that a gradient is a 'torch.cuda.FloatTensor'",
    ),
    Patch(
        "tensor_cuda",
        "Tensor.cuda() of a CPU tensor is the tensor",
        "models/common/language_module/language_module.py:244, where a pipeline's last stage shares the embedding; "
        "optimizer/distrib_optimizer.py:1089, where the distributed optimizer is saved",
    ),
    Patch(
        "backward",
        "the three above hold inside a backward pass too, which torch runs with its function modes off",
        "tensor_parallel/random.py:557 recomputes layers there, which ask for masks: transformer/utils.py:35",
    ),
    Patch(
        "default_rng",
        "torch.cuda.{get,set}_rng_state and manual_seed act on the CPU generator",
        "tensor_parallel/random.py:235, 237, 238, 422",
    ),
    Patch(
        "tracker_rng",
        "Megatron's own RNG getter and setter act on the CPU generator",
        "tensor_parallel/random.py:240, 250, 255, 273, 277. Silent if left out: torch only queues the setter "
        "without CUDA, and every dropout mask is another one",
    ),
)

_trace: collections.Counter[tuple[str, str]] | None = None


def needed() -> bool:
    """Whether this process has no CUDA to give to Megatron."""
    return not torch.cuda.is_available()


def trace() -> collections.Counter[tuple[str, str]]:
    """Start counting (patch, calling file:line below megatron/core); the counter that is returned fills up."""
    global _trace
    _trace = collections.Counter()
    return _trace


def _called(patch: str) -> None:
    if _trace is None:
        return
    frame: Any = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename.replace("\\", "/")
        if "/megatron/core/" in path:
            _trace[patch, f"{path.rpartition('/megatron/core/')[2]}:{frame.f_lineno}"] += 1
            return
        frame = frame.f_back


def _is_cuda(device: Any) -> bool:
    if isinstance(device, bool):
        return False
    if isinstance(device, int):
        return True
    return isinstance(device, str | torch.device) and str(device).startswith("cuda")


class CudaMeansCpu(TorchFunctionMode):
    """Patches device_argument, tensor_type and tensor_cuda, for every torch call of the process."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            _called("device_argument")
            kwargs = {**kwargs, "device": CPU}
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            _called("tensor_type")
            return func(*args).replace("torch.", "torch.cuda.", 1)
        if func is torch.Tensor.cuda:
            _called("tensor_cuda")
            return args[0]
        return func(*args, **kwargs)


def _current_device() -> torch.device:
    _called("current_device")
    return CPU  # a device object, not a number: upstream passes it on as device=


def _get_rng_state(device: Any = None) -> torch.Tensor:
    _called("default_rng")
    return torch.get_rng_state()


def _set_rng_state(new_state: torch.Tensor, device: Any = None) -> None:
    _called("default_rng")
    torch.set_rng_state(new_state)


def _manual_seed(seed: int) -> None:
    _called("default_rng")
    torch.default_generator.manual_seed(seed)


def _get_tracker_state(device: Any = "cuda", clone: bool = False, graph_safe: bool = False) -> torch.Tensor:
    _called("tracker_rng")
    return torch.get_rng_state()


def _set_tracker_state(new_state: torch.Tensor, device: Any = -1, graph_safe: bool = False) -> None:
    _called("tracker_rng")
    torch.set_rng_state(new_state)


def _backward_with_mode(*args: Any, **kwargs: Any) -> Any:
    _called("backward")
    with CudaMeansCpu():
        return _run_backward(*args, **kwargs)


_run_backward: Any = torch.autograd._engine_run_backward  # type: ignore[attr-defined]


def install() -> None:
    """Patch torch. RuntimeError where there is CUDA, or where megatron.core was imported before."""
    if not needed():
        raise RuntimeError("the CPU shim is for processes without CUDA; hide it with CUDA_VISIBLE_DEVICES=")
    if "megatron.core" in sys.modules:
        raise RuntimeError("install the CPU shim before the first import of megatron.core")
    cuda: Any = torch.cuda
    cuda.current_device = _current_device
    cuda.get_rng_state = cuda.random.get_rng_state = _get_rng_state
    cuda.set_rng_state = cuda.random.set_rng_state = _set_rng_state
    cuda.manual_seed = cuda.random.manual_seed = _manual_seed
    torch.autograd._engine_run_backward = _backward_with_mode  # type: ignore[attr-defined]
    CudaMeansCpu().__enter__()  # for the life of the process


def patch_megatron() -> None:
    """Patch what megatron.core has made its own copies of; call once, after its import."""
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = _get_tracker_state
    random._set_cuda_rng_state = _set_tracker_state
    # It warns whenever the CPU generator moves inside a fork of the CUDA generator; here they are one and the same.
    logging.getLogger(random.__name__).setLevel(logging.ERROR)
