"""From a Work to a model in training on this rank."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.nodes.heartbeat import Heartbeat
from easyllm.core.tuning.building import Tuned, build
from easyllm.finetune import packing
from easyllm.finetune.engines import Copies, Engine, Sharded, rank_and_ranks
from easyllm.finetune.noise import EmbeddingNoise
from easyllm.finetune.training import Training
from easyllm.finetune.work import Work


@dataclass(frozen=True)
class Assembled:
    """Ready to run."""

    tuned: Tuned
    training: Training
    decisions: list[Decision]
    """About what the model itself has shown."""


def assemble(work: Work, pulse: Heartbeat | None = None) -> Assembled:
    """The model as ``method.build`` makes it, its kernels, the layout it takes, and its engine."""
    config, device = work.config, rank_device(work.device)
    dtype = getattr(torch, work.dtype)
    tuned = build(config, work.directory, dtype, work.seed, work.tokens)
    decisions = _kernels(tuned.model, config.kernels, work.device)
    plain = config.engine == "fsdp" or (config.engine == "deepspeed" and config.deepspeed.zero == 3)
    layout = packing.choose(tuned.model, work.train, config.packing, work.pad_id, "finetune", plain)
    if config.gradient_checkpointing:
        tuned.model.gradient_checkpointing_enable({"use_reentrant": False})
    noise = EmbeddingNoise(tuned.model, config.neftune_alpha) if config.neftune_alpha else None
    rank = rank_and_ranks()[0]
    if rank:  # the weights are the same on every rank, what is dropped is not
        torch.manual_seed(work.seed + rank)
    training = Training(
        tuned.model, _engine(tuned.model, work, dtype, device), work.train, work.held_out, work.steps, config, layout,
        work.state, device, noise, pulse,
    )  # fmt: skip
    return Assembled(tuned, training, [layout.decision, *decisions])


def rank_device(kind: str) -> torch.device:
    """This rank's own."""
    if kind == "cpu":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _engine(model: Any, work: Work, dtype: torch.dtype, device: torch.device) -> Engine:
    if work.config.engine == "deepspeed":
        from easyllm.finetune.engine_deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(model, work.config, dtype, device, work.library)
    engine = Sharded if work.config.engine == "fsdp" else Copies
    return engine(model, work.config, dtype, device)


def _kernels(model: Any, asked: str, device: str) -> list[Decision]:
    """Liger's norms, rotations and activations; the loss is ours, which never has the logits whole either."""
    if asked == "none" or device == "cpu":
        return []
    if find_spec("liger_kernel") is None:
        return [Decision("kernels", "none", say("why_no_liger"))]
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    _apply_liger_kernel_to_instance(model=inner, fused_linear_cross_entropy=False, cross_entropy=False)
    return [Decision("kernels", "liger", say("why_liger"))]
