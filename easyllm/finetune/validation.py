"""What the measurements of the held-out rows say: which was best, and whether it is time to stop."""

from dataclasses import asdict, dataclass
from typing import Any

from easyllm.finetune.config import Validation


@dataclass
class Watch:
    """Counts measurements; part of the state that a cut run goes on from."""

    asked: Validation
    best_step: int | None = None
    best_loss: float = float("inf")
    without_better: int = 0

    def due(self, step: int, last: bool, epoch_ends: bool) -> bool:
        """Whether to measure after this step; always after the last one."""
        every = self.asked.every_steps
        return last or (step % every == 0 if every else epoch_ends)

    def better(self, step: int, loss: float) -> bool:
        """Take the measurement down; whether it is the best so far."""
        if loss < self.best_loss:
            self.best_step, self.best_loss, self.without_better = step, loss, 0
            return True
        self.without_better += 1
        return False

    @property
    def enough(self) -> bool:
        return self.asked.patience is not None and self.without_better >= self.asked.patience

    def as_record(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "asked"}

    def restore(self, record: dict[str, Any]) -> None:
        for key, value in record.items():
            setattr(self, key, value)
