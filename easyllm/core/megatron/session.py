"""A rank's life around the model: device, process group, parallel layout, seeds."""

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from easyllm.core.megatron import cpu
from easyllm.core.megatron.layout import Layout
from easyllm.core.messages import say

if TYPE_CHECKING:
    import torch


def choose_device(asked: str) -> tuple[str, int, str]:
    """``cuda`` or ``cpu`` for what a recipe asks (``auto`` or ``cpu``), how many GPUs there are, and why."""
    import torch

    if asked == "cpu":
        return "cpu", 0, say("why_cpu_asked")
    if cpu.needed():
        return "cpu", 0, say("why_no_cuda")
    found = torch.cuda.device_count()
    return "cuda", found, say("why_cuda", found=found)


def rank_device(kind: str) -> "torch.device":
    """This rank's own device of that kind; on the CPU, GPUs are hidden from torch, for the shim cannot share."""
    import torch

    if kind == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return torch.device("cpu")


def quieten() -> None:
    """Silence what Megatron and torch say about things that are as they should be here."""
    # Transformer Engine and Apex are optional speed-ups; the layer spec that needs neither is chosen on purpose.
    warnings.filterwarnings("ignore", module=r"megatron\.core\..*")
    # torch.distributed.checkpoint's internals call each other by deprecated names.
    warnings.filterwarnings("ignore", module=r"torch\.distributed\..*", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Please use DTensor", category=FutureWarning)  # Megatron's own use
    # Megatron asks every weight for it, the distributed optimizer's parts of weights included.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    # Settings that our own plan prints already, and one line per saved checkpoint.
    logging.getLogger("megatron.core").setLevel(logging.ERROR)


@contextmanager
def megatron_session(
    device: "torch.device", layout: Layout, seed: int, timeout_seconds: float = 1800
) -> Iterator[None]:
    """Megatron ready on this rank: shim where needed, process group, parallel groups, seeds; torn down after.

    The ranks come from torchrun's environment. A collective that waits ``timeout_seconds`` for a rank fails.
    """
    quieten()
    if device.type == "cpu":
        cpu.install()
    import megatron.core  # noqa: F401  # after the shim, before anything else of Megatron
    import torch
    import torch.distributed as dist

    if device.type == "cpu":
        cpu.patch_megatron()
    else:
        torch.cuda.set_device(device)
    from easyllm.core.megatron import distributed_optimizer

    if distributed_optimizer.needed():
        distributed_optimizer.patch()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_seconds))
    try:
        with laid_out(layout, seed, timeout_seconds):
            yield
    finally:
        dist.destroy_process_group()


@contextmanager
def laid_out(layout: Layout, seed: int, timeout_seconds: float = 1800) -> Iterator[None]:
    """Megatron's groups for ``layout`` over all ranks, and seeds; inside a process group that is there already."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
        context_parallel_size=layout.context,
        distributed_timeout_minutes=max(1, int(timeout_seconds / 60)),
    )
    set_seeds(seed)
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()


def set_seeds(seed: int) -> None:
    """Seed every generator, for dropout above all; pipeline stages get different seeds, or they drop the same units."""
    import numpy
    import torch
    from megatron.core import parallel_state, tensor_parallel

    seed += 100 * parallel_state.get_pipeline_model_parallel_rank()
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
