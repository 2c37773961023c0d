"""A rank's life around the model: device, process group, parallel layout, seeds."""

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from easyllm.core.megatron import cpu
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
    # Settings that our own plan prints already, and one line per saved checkpoint.
    logging.getLogger("megatron.core").setLevel(logging.ERROR)


@contextmanager
def megatron_session(device: "torch.device", tensor: int, seed: int) -> Iterator[None]:
    """Megatron ready on this rank: shim where needed, process group, parallel groups, seeds; torn down after.

    The ranks come from torchrun's environment.
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
    from megatron.core import parallel_state

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=tensor)
    set_seeds(seed)
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def set_seeds(seed: int) -> None:
    """Seed every generator. Pipeline stages get different seeds: with equal ones their layers start bit-equal."""
    import numpy
    import torch
    from megatron.core import parallel_state, tensor_parallel

    seed += 100 * parallel_state.get_pipeline_model_parallel_rank()
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
