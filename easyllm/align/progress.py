"""The trainer's steps as our own bar and our own curve."""

import math
from typing import Any

from transformers import TrainerCallback

from easyllm.core.errors import failed
from easyllm.core.progress import Progress


class Told(TrainerCallback):
    """Moves ``bar`` by every step, and stops on a loss that no further step can mend."""

    def __init__(self, bar: Progress, stage: str, rate: float) -> None:
        self._bar, self._stage, self._rate = bar, stage, rate

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm") or 0.0)):
            figures = {"step": state.global_step, "loss": logs["loss"], "norm": logs.get("grad_norm")}
            raise failed("ALIGN-012", stage=self._stage, key=f"{self._stage}.learning_rate", rate=self._rate, **figures)
        margin = logs.get("rewards/margins")  # none of a step of kto whose answers are all of one kind
        self._bar.advance(1, loss=logs["loss"], margin="-" if margin is None else margin)
