"""The engine ``megatron``: Megatron-Core's data parallelism, optimizer, schedule and checkpoints."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.num_microbatches_calculator import (
    destroy_num_microbatches_calculator,
    init_num_microbatches_calculator,
)
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func

from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.checkpoint import (
    SAVED,
    load_whole,
    rng_state,
    save_whole,
    set_rng_state,
    sharded_rng,
)
from easyllm.core.megatron.model import build_model, choose_layers
from easyllm.pretrain.batch import batch_plan
from easyllm.pretrain.config import PretrainConfig


@dataclass(frozen=True)
class StepResult:
    """One optimizer step as every rank sees it."""

    loss: float
    learning_rate: float
    grad_norm: float


class MegatronEngine:
    """A model in training on this rank: ``train_step``, ``save``, ``load``."""

    def __init__(self, architecture: Architecture, config: PretrainConfig, device: torch.device) -> None:
        self.layers = choose_layers(device)
        self._architecture = architecture
        self._config = config
        self._batch = batch_plan(config)
        _count_micro_batches(config, self._batch.data_parallel)
        model = build_model(architecture, device, config.parallel.tensor)
        # The plain optimizer; the distributed one needs repairs of its own with torch's AdamW.
        settings = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=False)
        self.ddp = DistributedDataParallel(model.config, settings, model)
        self.ddp.broadcast_params()
        self.model = model
        self._optimizer = _optimizer(config, architecture, self.ddp)
        self._scheduler = _scheduler(config, self._optimizer)
        model.config.finalize_model_grads_func = finalize_model_grads
        model.config.grad_scale_func = self._optimizer.scale_loss
        self._forward_backward = get_forward_backward_func()

    def train_step(self, batches: Iterator[dict[str, Any]]) -> StepResult:
        """One optimizer step over this rank's micro batches of the global batch."""
        self.ddp.zero_grad_buffer()
        self._optimizer.zero_grad()
        losses = self._forward_backward(
            forward_step_func=_forward,
            data_iterator=batches,
            model=[self.ddp],
            num_microbatches=self._batch.micro_batches,
            seq_length=self._config.sequence_tokens,
            micro_batch_size=self._config.batch.micro_samples,
            forward_only=False,
        )
        learning_rate = self._optimizer.param_groups[0]["lr"]  # the rate of this very step
        _, grad_norm, _ = self._optimizer.step()
        self._scheduler.step(increment=self._config.batch.global_samples)
        return StepResult(_mean_over_ranks([row["loss"] for row in losses]), learning_rate, float(grad_norm or 0))

    def save(self, path: Path, progress: dict[str, Any]) -> None:
        """Everything that going on needs, and ``progress``; every rank calls it."""
        state = {**self._sharded(loading=False), "rng": sharded_rng(rng_state)}
        save_whole(state, path, self._architecture, {"scheduler": self._scheduler.state_dict(), **progress})

    def load(self, path: Path) -> dict[str, Any]:
        """The inverse of save; gives ``progress`` back."""
        state = {**self._sharded(loading=True), "rng": sharded_rng(None)}
        loaded = load_whole(path, self._architecture, state)
        self.model.load_state_dict(loaded["model"])
        self._optimizer.load_state_dict(loaded["optimizer"])
        saved = loaded[SAVED]
        self._scheduler.num_steps = 0  # it adds the loaded count to its own
        self._scheduler.load_state_dict(saved.pop("scheduler"))
        set_rng_state(loaded["rng"])
        return dict(saved)

    def _sharded(self, loading: bool) -> dict[str, Any]:
        state: dict[str, Any] = {"model": self.model.sharded_state_dict()}
        state["optimizer"] = self._optimizer.sharded_state_dict(state, is_loading=loading)
        return state

    def close(self) -> None:
        destroy_num_microbatches_calculator()


def _count_micro_batches(config: PretrainConfig, data_parallel: int) -> None:
    batch = config.batch
    init_num_microbatches_calculator(dist.get_rank(), None, batch.global_samples, batch.micro_samples, data_parallel)


def _optimizer(config: PretrainConfig, architecture: Architecture, ddp: DistributedDataParallel) -> Any:
    asked = config.optimizer
    settings = OptimizerConfig(
        optimizer="adam",
        lr=asked.learning_rate,
        min_lr=asked.min_learning_rate,  # None, the default, crashes the scheduler
        weight_decay=asked.weight_decay,
        adam_beta1=0.9,
        adam_beta2=asked.beta2,
        clip_grad=asked.clip_grad,
        params_dtype=getattr(torch, architecture.dtype),
        use_distributed_optimizer=False,
    )
    return get_megatron_optimizer(settings, [ddp])


def _scheduler(config: PretrainConfig, optimizer: Any) -> OptimizerParamScheduler:
    """Linear warm-up, cosine decay. Megatron counts in samples and gives the first step the initial rate."""
    asked, samples = config.optimizer, config.batch.global_samples
    first = asked.learning_rate / asked.warmup_steps if asked.warmup_steps else asked.learning_rate
    return OptimizerParamScheduler(
        optimizer,
        init_lr=first,  # not 0: that step would train nothing
        max_lr=asked.learning_rate,
        min_lr=asked.min_learning_rate,
        lr_warmup_steps=asked.warmup_steps * samples,
        lr_decay_steps=config.steps * samples,
        lr_decay_style="cosine",
        start_wd=asked.weight_decay,
        end_wd=asked.weight_decay,
        wd_incr_steps=config.steps * samples,
        wd_incr_style="constant",
    )


def _forward(batches: Iterator[dict[str, Any]], model: Any) -> Any:
    batch = next(batches)
    losses = model(batch["tokens"], batch["position_ids"], None, labels=batch["labels"])  # [micro, tokens]

    def mean(output: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        mask = batch["loss_mask"].view(-1)
        loss = (output.float().view(-1) * mask).sum() / mask.sum()
        return loss, {"loss": loss.detach().clone()}  # a clone: Megatron divides the first in place

    return losses, mean


def _mean_over_ranks(losses: list[torch.Tensor]) -> float:
    """Over this rank's micro batches, then over the data parallel ranks; equal on every rank."""
    mean = torch.stack(losses).mean()
    group = parallel_state.get_data_parallel_group()
    dist.all_reduce(mean, group=group)
    value = float(mean / dist.get_world_size(group))
    return value if math.isfinite(value) else math.nan
