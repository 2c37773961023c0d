"""The engine ``deepspeed``: ZeRO 0 to 3 and CPU Adam, started by deepspeed.initialize itself.

accelerate's DeepSpeedPlugin is not between: it would count micro batches, which are not alike in every step here.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from easyllm.core import deepspeed_ops
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.engines import Named, groups, rank_and_ranks

PASSES = 2
"""What DeepSpeed believes of every step, so that it adds gradients up; the last pass of a step is named to it."""


class DeepSpeedEngine:
    """A model in training on this rank."""

    def __init__(
        self, model: Any, config: FinetuneConfig, dtype: torch.dtype, device: torch.device, library: Path | None
    ) -> None:
        deepspeed = deepspeed_ops.imported(device.type, library)
        if config.deepspeed.zero < 3:
            model.to(device)
        names = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.together = True  # a rank that ends a step without a pass of its own would miss its collectives
        self.dtype = dtype
        self.model, self._optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=_adam(groups(names, config.weight_decay), config),
            config=settings(config, dtype), dist_init_required=False,
        )  # fmt: skip
        self._trained = names

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()  # it has the weights in that precision, and fp32 ones beside them

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        self.model.set_gradient_accumulation_boundary(last)
        # It divides by the passes it believes in, and takes the mean over the ranks.
        self.model.backward(loss * PASSES * rank_and_ranks()[1])
        if not last:
            self.model.step()

    def step(self, rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        before, norm = self.model.skipped_steps, self._norm()
        self.model.step()
        if self.model.skipped_steps > before:
            return math.nan
        norm = self.model.get_global_grad_norm() if norm is None else norm
        return float(norm or 0)

    def _norm(self) -> torch.Tensor | None:
        """Where DeepSpeed keeps it to itself: without ZeRO, in fp32. None elsewhere."""
        if self.model.zero_optimization() or self.dtype != torch.float32:
            return None
        from deepspeed.runtime.utils import clip_grad_norm_

        norm: torch.Tensor = clip_grad_norm_(self._trained.values(), math.inf)
        return norm

    def weights(self) -> Named:
        from deepspeed.utils import safe_get_full_fp32_param

        whole: Callable[[torch.Tensor], torch.Tensor | None] = safe_get_full_fp32_param
        found = {}
        for name, parameter in self._trained.items():
            kept = whole(parameter) if self.model.zero_optimization() else parameter.detach()
            assert kept is not None
            found[name] = kept.float().cpu().clone() if rank_and_ranks()[0] == 0 else torch.empty(0)
        return found

    def state(self, folder: Path) -> dict[str, Any]:
        self.model.save_checkpoint(str(folder), tag="ranks", save_latest=False, exclude_frozen_parameters=True)
        return {}

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        self.model.load_checkpoint(str(folder), tag="ranks", load_module_strict=False)


def settings(config: FinetuneConfig, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's JSON."""
    ranks = rank_and_ranks()[1]
    zero: dict[str, Any] = {"stage": config.deepspeed.zero}
    if config.deepspeed.offload_optimizer == "cpu":
        zero["offload_optimizer"] = {"device": "cpu"}
    half = {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}
    precision: dict[str, Any] = {name: {"enabled": on} for name, on in half.items()}
    if any(half.values()):
        precision["data_types"] = {"grad_accum_dtype": "fp32"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": PASSES,
        "train_batch_size": PASSES * ranks,
        "gradient_clipping": config.max_gradient_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": config.deepspeed.offload_optimizer == "cpu",
        **precision,
    }


def _adam(parameters: list[dict[str, Any]], config: FinetuneConfig) -> Any:
    if config.deepspeed.offload_optimizer == "cpu":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(parameters, lr=config.learning_rate, adamw_mode=True)
    return torch.optim.AdamW(parameters, lr=config.learning_rate)
