"""The learning rate and weight decay of every step: Megatron's scheduler, for either engine."""

from typing import Any

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from easyllm.pretrain.batch import samples_after
from easyllm.pretrain.config import PretrainConfig


def scheduler(config: PretrainConfig, optimizer: Any) -> OptimizerParamScheduler:
    """Linear warm-up, then the schedule. Megatron counts in samples and gives the first step the initial rate.

    ``optimizer`` is anything with ``param_groups``; a group's ``wd_mult`` scales its weight decay.
    """
    asked = config.optimizer
    whole = samples_after(config.batch, config.steps)
    falling = whole - samples_after(config.batch, config.steps - decay_steps(config))
    first = asked.learning_rate / max(1, asked.warmup_steps)
    return OptimizerParamScheduler(
        optimizer,
        init_lr=asked.warmup_from or first,  # not 0: that step would train nothing
        max_lr=asked.learning_rate,
        min_lr=asked.min_learning_rate,
        lr_warmup_steps=samples_after(config.batch, asked.warmup_steps),
        lr_decay_steps=whole,
        lr_decay_style="WSD" if asked.schedule == "wsd" else asked.schedule,
        wsd_decay_steps=falling,
        lr_wsd_decay_style="linear",
        start_wd=asked.weight_decay,
        end_wd=asked.weight_decay,
        wd_incr_steps=whole,
        wd_incr_style="constant",
    )


def restore(made: OptimizerParamScheduler, state: dict[str, Any]) -> None:
    """Go on where ``state_dict`` was taken."""
    made.num_steps = 0  # it adds the loaded count to its own
    made.load_state_dict(state)


def decay_steps(config: PretrainConfig) -> int:
    """Steps over which wsd falls."""
    return config.optimizer.decay_steps or max(1, config.steps // 10)
