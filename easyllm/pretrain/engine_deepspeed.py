"""The engine ``deepspeed``: Megatron's model, data and schedule under DeepSpeed's ZeRO and CPU Adam."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from easyllm.core import deepspeed_ops
from easyllm.core.families.weights import Weights
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
from easyllm.core.megatron.model import build_model, choose_layers
from easyllm.core.megatron.session import set_seeds
from easyllm.pretrain import schedule
from easyllm.pretrain.batch import layout_of
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.deepspeed_config import Extras, generated, merged
from easyllm.pretrain.engine import Batches, StepResult


class DeepSpeedEngine:
    """A model in training on this rank."""

    def __init__(
        self,
        architecture: Architecture,
        config: PretrainConfig,
        device: torch.device,
        seed: int,
        extras: Extras,
        source: Weights | None = None,
    ) -> None:
        self.layers = choose_layers(device, architecture)
        self._architecture, self._config, self._seed = architecture, config, seed
        deepspeed = deepspeed_ops.imported(device.type, extras.library)
        from easyllm.pretrain.deepspeed_state import WholeState

        [model] = build_model(architecture, device, layout_of(config), seed, config.recompute, source)
        state = WholeState(model, model.sharded_state_dict())
        _mark(model)
        _sum_over_heads(model)
        self._engine, optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=_optimizer(model, config),
            config=merged(generated(config, architecture.dtype), extras.own),
            mpu=ModelParallelUnit,
            dist_init_required=False,
        )
        self._state = state.of(optimizer)
        self._optimizer = optimizer
        self._scheduler = schedule.scheduler(config, optimizer)
        self._writer = Writer()

    def train_step(self, batches: Batches, micro_batches: int, samples: int) -> StepResult:
        """One optimizer step over this rank's micro batches of the global batch."""
        self._engine.set_train_batch_size(samples)  # it grows with the ramp
        learning_rate = self._optimizer.param_groups[0]["lr"]
        before, losses = self._engine.skipped_steps, []
        for index, batch in enumerate(batches()):
            # Said outright: DeepSpeed counts micro batches, and loses count where the batch grows.
            self._engine.set_gradient_accumulation_boundary(index + 1 == micro_batches)
            loss = self._loss(batch)
            losses.append(loss.detach())
            self._engine.backward(loss)
            if index + 1 < micro_batches:
                self._engine.step()
        norm = self._norm()
        self._engine.step()
        skipped = self._engine.skipped_steps > before
        self._scheduler.step(increment=samples)
        norm = self._engine.get_global_grad_norm() if norm is None else norm
        return StepResult(_mean_over_copies(losses), learning_rate, math.nan if skipped else float(norm or 0))

    def evaluate(self, batches: Batches, micro_batches: int) -> float:
        """Mean loss without dropout."""
        self._engine.eval()
        with torch.no_grad():
            losses = [self._loss(batch) for batch in batches()]
        self._engine.train()
        return _mean_over_copies(losses)

    def _loss(self, batch: dict[str, Any]) -> torch.Tensor:
        output = self._engine(batch["tokens"], batch["position_ids"], None, labels=batch["labels"])  # [micro, tokens]
        mask = batch["loss_mask"].view(-1)
        return (output.float().view(-1) * mask).sum() / mask.sum()  # type: ignore[no-any-return]

    def _norm(self) -> torch.Tensor | None:
        """Of the gradients, where DeepSpeed keeps it to itself: without ZeRO, in fp32. None elsewhere."""
        if self._engine.zero_optimization() or self._architecture.dtype != "float32":
            return None
        from deepspeed.runtime.utils import clip_grad_norm_

        return clip_grad_norm_(self._engine.module.parameters(), math.inf, mpu=ModelParallelUnit)  # type: ignore[no-any-return]

    def save(self, path: Path, progress: dict[str, Any]) -> Saving:
        """Every rank calls it."""
        plain = {
            "scheduler": self._scheduler.state_dict(), "layout": self._layout_record(),
            "updates": self._state.updates(), "scaler": self._scaler_state(), **progress,
        }  # fmt: skip
        state = {**self._state.collect(), "rng": sharded_rng(rng_state)}
        return self._writer.save(state, path, self._architecture, plain)

    def load(self, path: Path) -> dict[str, Any]:
        """The random generators go on where they stood if the layout is the same; on another one they start anew."""
        saved = plain_values(path)
        saved.pop("architecture")
        self._state.restore(lambda asked: load_whole(path, self._architecture, asked), saved.pop("updates"))
        schedule.restore(self._scheduler, saved.pop("scheduler"))
        self._set_scaler(saved.pop("scaler"))
        if saved.pop("layout") == self._layout_record():
            found = load_whole(path, self._architecture, {"rng": sharded_rng(None)})
            set_rng_state(found["rng"])
        else:
            set_seeds(self._seed + int(saved["step"]))  # with the first seed the first steps' masks would come again
        return saved

    def _layout_record(self) -> dict[str, Any]:
        return self._config.parallel.model_dump() | {"ranks": dist.get_world_size()}

    def _scaler_state(self) -> dict[str, Any] | None:
        """Of fp16's loss scale."""
        scaler = getattr(self._optimizer, "loss_scaler", None)
        return dict(vars(scaler)) if self._architecture.dtype == "float16" and scaler is not None else None

    def _set_scaler(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            vars(self._optimizer.loss_scaler).update(state)

    def close(self) -> None:
        """Let go of the writer, the gradient hooks and buffers."""
        self._writer.close()
        self._engine.destroy()


class ModelParallelUnit:
    """Megatron's groups by the names that DeepSpeed asks for. No pipeline: checks refuse it."""

    get_model_parallel_group = staticmethod(parallel_state.get_tensor_model_parallel_group)
    get_model_parallel_rank = staticmethod(parallel_state.get_tensor_model_parallel_rank)
    get_model_parallel_world_size = staticmethod(parallel_state.get_tensor_model_parallel_world_size)
    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_src_rank = staticmethod(parallel_state.get_tensor_model_parallel_src_rank)
    get_data_parallel_group = staticmethod(parallel_state.get_data_parallel_group)
    get_data_parallel_rank = staticmethod(parallel_state.get_data_parallel_rank)
    get_data_parallel_world_size = staticmethod(parallel_state.get_data_parallel_world_size)


def _mark(model: torch.nn.Module) -> None:
    """Which parameters are cut over the tensor parallel ranks: only those count on each in the gradient norm."""
    for parameter in model.parameters():
        cut = getattr(parameter, "tensor_model_parallel", False)
        parameter.model_parallel = parameter.tensor_model_parallel = cut  # type: ignore[attr-defined]


def _sum_over_heads(model: torch.nn.Module) -> None:
    """Every tensor parallel rank norms the queries and keys of its own heads with one weight: its gradient is the sum
    over them. Megatron's finalize_model_grads takes it; here it is taken as each gradient is made."""
    if parallel_state.get_tensor_model_parallel_world_size() == 1:
        return
    for name, parameter in model.named_parameters():
        if "q_layernorm" in name or "k_layernorm" in name:
            parameter.register_hook(_sum_over_ranks)


def _sum_over_ranks(gradient: torch.Tensor) -> torch.Tensor:
    whole = gradient.clone()
    dist.all_reduce(whole, group=parallel_state.get_tensor_model_parallel_group())
    return whole


def _optimizer(model: torch.nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW with Megatron's two groups: matrices decay, norms and biases do not."""
    asked = config.optimizer
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    rest = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "wd_mult": 1.0}, {"params": rest, "wd_mult": 0.0}]
    settings: dict[str, Any] = {
        "lr": asked.learning_rate, "betas": (0.9, asked.beta2), "weight_decay": asked.weight_decay,
    }  # fmt: skip
    groups = [group for group in groups if group["params"]]
    if config.deepspeed.offload_optimizer == "cpu":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, adamw_mode=True, **settings)  # type: ignore[no-any-return]
    return torch.optim.AdamW(groups, **settings)


def _mean_over_copies(losses: list[torch.Tensor]) -> float:
    """Over the micro batches of all data parallel ranks; equal on every rank."""
    total = torch.stack(losses).double().mean()
    dist.all_reduce(total, group=parallel_state.get_data_parallel_group())
    value = float(total) / parallel_state.get_data_parallel_world_size()
    return value if math.isfinite(value) else math.nan
