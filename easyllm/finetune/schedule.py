"""The learning rate of every step."""

import math
from typing import Literal


def learning_rate(
    step: int, steps: int, highest: float, warmup_ratio: float, schedule: Literal["cosine", "linear", "constant"]
) -> float:
    """Rate of step ``step`` (from 1): a line up over the warm-up, then as ``schedule`` says, towards zero or level."""
    warmup = math.ceil(warmup_ratio * steps)
    if step <= warmup:
        return highest * step / warmup
    if schedule == "constant":
        return highest
    done = (step - warmup) / (steps - warmup + 1)
    return highest * (1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))
