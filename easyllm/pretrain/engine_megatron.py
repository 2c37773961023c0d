"""The engine ``megatron``: Megatron-Core's data parallelism, optimizers, pipeline schedules and checkpoints."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.module import Float16Module
from megatron.core.utils import get_batch_on_this_cp_rank

from easyllm.core.families.weights import Weights
from easyllm.core.megatron import distributed_optimizer
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.megatron.checkpoint import (
    Saving,
    Writer,
    load_whole,
    plain_values,
    rng_state,
    set_rng_state,
    sharded_rng,
)
from easyllm.core.megatron.files import SAVED
from easyllm.core.megatron.model import build_model, choose_layers
from easyllm.core.megatron.session import set_seeds
from easyllm.pretrain import schedule
from easyllm.pretrain.batch import layout_of
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.engine import Batches, StepResult

FIRST_LOSS_SCALE = 2.0**16
"""Of fp16. Megatron's own 2^32 overflows for the first dozens of steps, which then train nothing."""


class MegatronEngine:
    """A model in training on this rank."""

    def __init__(
        self,
        architecture: Architecture,
        config: PretrainConfig,
        device: torch.device,
        seed: int,
        source: Weights | None = None,
    ) -> None:
        self.layers = choose_layers(device, architecture)
        self._architecture, self._config, self._seed = architecture, config, seed
        self._layout = layout_of(config)
        # One chunk a virtual pipeline stage; without them there is one.
        self.chunks = build_model(architecture, device, self._layout, seed, config.recompute, source)
        self._ddp = [_data_parallel(chunk, config) for chunk in self.chunks]
        self._optimizer = _optimizer(config, architecture, self._ddp)
        self._scheduler = schedule.scheduler(config, self._optimizer)
        self._writer = Writer()
        settings = self.chunks[0].config  # shared by all chunks
        settings.finalize_model_grads_func = finalize_model_grads
        settings.grad_scale_func = self._optimizer.scale_loss

    def train_step(self, batches: Batches, micro_batches: int, samples: int) -> StepResult:
        """One optimizer step over this rank's micro batches of the global batch."""
        for chunk in self._ddp:
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()
        loss = self._pass(batches, micro_batches, forward_only=False)
        learning_rate = self._optimizer.param_groups[0]["lr"]  # the rate of this very step
        updated, grad_norm, _ = self._optimizer.step()
        self._scheduler.step(increment=samples)
        return StepResult(loss, learning_rate, float(grad_norm or 0) if updated else math.nan)

    def evaluate(self, batches: Batches, micro_batches: int) -> float:
        """Mean loss without dropout."""
        for chunk in self._ddp:
            chunk.eval()
        with torch.no_grad():
            loss = self._pass(batches, micro_batches, forward_only=True)
        for chunk in self._ddp:
            chunk.train()
        return loss

    def _pass(self, batches: Batches, micro_batches: int, forward_only: bool) -> float:
        """Forward, and backward where asked, over all micro batches; the mean loss, equal on every rank."""
        iterators = [batches() for _ in self._ddp]
        several = len(iterators) > 1
        losses = get_forward_backward_func()(
            forward_step_func=partial(_forward, self._layout.context),
            data_iterator=iterators if several else iterators[0],
            model=self._ddp if several else self._ddp[0],
            num_microbatches=micro_batches,
            seq_length=self._config.sequence_tokens // self._layout.context,
            micro_batch_size=self._config.batch.micro_samples,
            forward_only=forward_only,
        )
        return _mean_over_ranks([row["loss"] for row in losses])

    def save(self, path: Path, progress: dict[str, Any]) -> Saving:
        """Every rank calls it."""
        state = {**self._sharded(loading=False), "rng": sharded_rng(rng_state)}
        plain = {"scheduler": self._scheduler.state_dict(), "layout": self._layout_record(), **progress}
        return self._writer.save(state, path, self._architecture, plain)

    def load(self, path: Path) -> dict[str, Any]:
        """The random generators go on where they stood if the layout is the same; on another one they start anew."""
        same = plain_values(path)["layout"] == self._layout_record()
        state = self._sharded(loading=True) | ({"rng": sharded_rng(None)} if same else {})
        loaded = load_whole(path, self._architecture, state)
        for name, chunk in zip(self._names(), self.chunks, strict=True):
            chunk.load_state_dict(loaded[name])
        self._optimizer.load_state_dict(loaded["optimizer"])
        distributed_optimizer.part_steps(self._optimizer)
        saved = loaded[SAVED]
        schedule.restore(self._scheduler, saved.pop("scheduler"))
        if same:
            set_rng_state(loaded["rng"])
        else:
            set_seeds(self._seed + int(saved["step"]))  # with the first seed the first steps' masks would come again
        saved.pop("layout")
        return dict(saved)

    def _layout_record(self) -> dict[str, Any]:
        return self._config.parallel.model_dump() | {"ranks": dist.get_world_size()}

    def _names(self) -> list[str]:
        """Keys of the chunks' states; the tensors' own names in the file do not depend on them."""
        return ["model"] if len(self.chunks) == 1 else [f"model{i}" for i in range(len(self.chunks))]

    def _sharded(self, loading: bool) -> dict[str, Any]:
        states = [chunk.sharded_state_dict() for chunk in self.chunks]
        state: dict[str, Any] = dict(zip(self._names(), states, strict=True))
        if loading:
            distributed_optimizer.prime(self._optimizer)
        state["optimizer"] = self._optimizer.sharded_state_dict(
            state, is_loading=loading, metadata=distributed_optimizer.METADATA
        )
        return state

    def close(self) -> None:
        """Let go of the writer."""
        self._writer.close()


def _data_parallel(chunk: Any, config: PretrainConfig) -> DistributedDataParallel:
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=config.optimizer.distributed
    )
    half = chunk.config.bf16 or chunk.config.fp16
    wrapped = Float16Module(chunk.config, chunk) if half else chunk
    made = DistributedDataParallel(chunk.config, settings, wrapped)
    made.broadcast_params()
    return made


def _optimizer(config: PretrainConfig, architecture: Architecture, ddp: list[DistributedDataParallel]) -> Any:
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
        bf16=architecture.dtype == "bfloat16",
        fp16=architecture.dtype == "float16",
        initial_loss_scale=FIRST_LOSS_SCALE,
        use_distributed_optimizer=asked.distributed,
    )
    return get_megatron_optimizer(settings, ddp)


def _forward(context: int, batches: Iterator[dict[str, Any]], model: Any) -> Any:
    batch = next(batches)
    if context > 1:
        batch = get_batch_on_this_cp_rank(batch)  # two pieces of the sequence, so that every rank has equal work
    losses = model(batch["tokens"], batch["position_ids"], None, labels=batch["labels"])  # [micro, tokens]

    def mean(output: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        mask = batch["loss_mask"].view(-1)
        loss = (output.float().view(-1) * mask).sum() / mask.sum()
        return loss, {"loss": loss.detach().clone()}  # a clone: Megatron divides the first in place

    return losses, mean


def _mean_over_ranks(losses: list[torch.Tensor]) -> float:
    """Over the micro batches of all ranks that have losses: those of the last pipeline stage."""
    total = torch.stack(losses).double().sum() if losses else torch.zeros((), dtype=torch.float64)
    both = torch.stack([total.cpu(), torch.tensor(float(len(losses)), dtype=torch.float64)])
    if dist.get_backend() == "nccl":
        both = both.cuda()
    dist.all_reduce(both)
    value = float(both[0] / both[1])
    return value if math.isfinite(value) else math.nan
