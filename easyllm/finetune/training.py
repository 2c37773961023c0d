"""The training loop. accelerate moves, scales and clips; the arithmetic of batches and states is our own.

transformers.Trainer is not used: it picks the state to go on from by directory name, whole or not, and it
averages over micro batches of unlike label counts unless the model takes part; here a step's loss is the mean
over all of its label tokens, however they are cut into micro batches.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from easyllm.core.batches import answer_loss
from easyllm.core.errors import failed
from easyllm.core.examples import Example
from easyllm.core.messages import say
from easyllm.core.progress import Progress, note, progress
from easyllm.finetune import state
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.micro import share_out
from easyllm.finetune.order import Step
from easyllm.finetune.packing import Layout


@dataclass(frozen=True)
class Row:
    """One optimizer step of the loss curve."""

    step: int
    """Counted from 1."""
    epoch: int
    loss: float
    """Mean cross-entropy over the step's label tokens, in nats."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    label_tokens: int


def learning_rate(step: int, steps: int, highest: float, warmup_ratio: float) -> float:
    """Rate of step ``step`` (from 1): a line up over the warm-up, then half a cosine towards zero."""
    warmup = math.ceil(warmup_ratio * steps)
    if step <= warmup:
        return highest * step / warmup
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup + 1)))


class Training:
    """Trains what requires a gradient in ``model``, step after step, and keeps its state in ``folder``."""

    def __init__(
        self, model: Any, examples: Sequence[Example], steps: Sequence[Step], config: FinetuneConfig,
        layout: Layout, folder: Path, mixed_precision: str,
    ) -> None:  # fmt: skip
        self._accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=mixed_precision)
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        # fused: 6.5 times faster on a CPU than the default, the same numbers to 6e-8.
        optimizer = torch.optim.AdamW(self._trained.values(), lr=config.learning_rate, weight_decay=0.0, fused=True)
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)
        self._examples, self._steps, self._config = examples, steps, config
        self._layout, self._folder = layout, folder
        self._lengths = [len(example.ids) for example in examples]
        self._unwrapped = model
        self.rows: list[Row] = []

    def run(self) -> tuple[list[Row], float]:
        """Every step that is not done yet: (the whole curve, seconds). StageFailed when the loss is NaN or zero."""
        self._go_on()
        self._model.train()
        started = time.monotonic()
        bar_of_steps = progress("finetune", len(self._steps), "steps", done=len(self.rows))
        with self._layout.attention(self._unwrapped), bar_of_steps as bar:
            for number in range(len(self.rows) + 1, len(self._steps) + 1):
                self.rows.append(self._step(number))
                self._report(bar)
                if number % self._config.checkpoint_every_steps == 0 and number < len(self._steps):
                    self._save(number)
        return self.rows, time.monotonic() - started

    def _step(self, number: int) -> Row:
        step, config = self._steps[number - 1], self._config
        rate = learning_rate(number, len(self._steps), config.learning_rate, config.warmup_ratio)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        size, packed = config.batch.micro_samples, self._layout.packed
        [micro] = share_out(step.rows, self._lengths, size, config.sequence_tokens, packed, 1)
        batches = [self._layout.batch([self._examples[row] for row in rows]) for rows in micro]
        labels = sum(batch.label_tokens for batch in batches)
        total = 0.0
        for batch in batches:
            with self._accelerator.autocast():
                loss = answer_loss(self._model, batch.to(self._accelerator.device), self._layout.head) / labels
            total += loss.item()
            self._accelerator.backward(loss)
        norm = float(self._accelerator.clip_grad_norm_(self._trained.values(), config.max_gradient_norm))
        self._watch(number, total, norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return Row(number, step.epoch, total, rate, norm, labels)

    def _watch(self, number: int, loss: float, norm: float) -> None:
        """Stop on what no further step can mend. fp16 scales its own overflowing gradients, so they may pass."""
        scaled = self._accelerator.scaler is not None
        if math.isfinite(loss) and loss != 0 and (math.isfinite(norm) or scaled):
            return
        code = "TRAIN-004" if loss == 0 else "TRAIN-005" if number == 1 else "TRAIN-006"
        rate = self._config.learning_rate
        figures = {"step": number, "loss": loss, "norm": norm, "precision": self._accelerator.mixed_precision}
        raise failed(code, stage="finetune", key="finetune.learning_rate", rate=rate, **figures)

    def _report(self, bar: Progress) -> None:
        row = self.rows[-1]
        bar.advance(1, loss=row.loss, epoch=row.epoch)

    def _save(self, number: int) -> None:
        scaler = self._accelerator.scaler
        kept = {
            "weights": {name: p.detach().cpu() for name, p in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "scaler": scaler.state_dict() if scaler else None,
            "rows": [asdict(row) for row in self.rows],
        }
        state.save(self._folder, number, kept)

    def _go_on(self) -> None:
        """Take up the newest state, if there is one."""
        kept = state.newest(self._folder)
        if kept is None:
            return
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(kept["weights"][name])
        self._optimizer.load_state_dict(kept["optimizer"])
        torch.set_rng_state(kept["random"])
        if kept["random_cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(kept["random_cuda"])
        if kept["scaler"] is not None and self._accelerator.scaler:
            self._accelerator.scaler.load_state_dict(kept["scaler"])
        self.rows = [Row(**row) for row in kept["rows"]]
        note(say("going_on", stage="finetune", step=len(self.rows), steps=len(self._steps)))
