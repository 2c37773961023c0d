"""The training loop, the same for every engine and for any number of ranks.

transformers.Trainer is not used: it picks the state to go on from by directory name, whole or not, and it
averages over micro batches of unlike label counts unless the model takes part; here a step's loss is the mean
over all of its label tokens, however they are cut into micro batches and shared out over ranks.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from easyllm.core.batches import Batch, answer_loss
from easyllm.core.errors import failed
from easyllm.core.examples import IGNORED, Example
from easyllm.core.messages import say
from easyllm.core.nodes.heartbeat import Heartbeat
from easyllm.core.progress import Progress, note, progress
from easyllm.core.stop import StopOnRequest
from easyllm.finetune import state
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.engines import Engine, Named, rank_and_ranks
from easyllm.finetune.micro import share_out
from easyllm.finetune.noise import EmbeddingNoise
from easyllm.finetune.order import Step
from easyllm.finetune.packing import Layout
from easyllm.finetune.schedule import learning_rate
from easyllm.finetune.validation import Watch


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
    held_out_loss: float | None = None
    """The same over the rows held out, after the step; None where it was not measured."""


class Training:
    """Trains on this rank with ``engine``, step after step; the first rank keeps the state in ``folder``."""

    def __init__(
        self, model: Any, engine: Engine, examples: Sequence[Example], held_out: Sequence[Example],
        steps: Sequence[Step], config: FinetuneConfig, layout: Layout, folder: Path, device: torch.device,
        noise: EmbeddingNoise | None = None, pulse: Heartbeat | None = None,
    ) -> None:  # fmt: skip
        self._unwrapped, self._engine, self._noise, self._pulse = model, engine, noise, pulse
        self._examples, self._held_out, self._steps, self._config = examples, held_out, steps, config
        self._layout, self._folder, self._device = layout, folder, device
        self._rank, self._ranks = rank_and_ranks()
        self._short = min(examples, key=lambda example: len(example.ids))
        self._lengths = [len(example.ids) for example in examples]
        self.watch = Watch(config.validation)
        self.rows: list[Row] = []
        self.stopped_early = False

    def run(self) -> float:
        """Every step that is not done yet; the seconds it took.

        StageFailed when the loss is NaN or zero; KeyboardInterrupt when SIGTERM came and the state is saved.
        """
        started, stop = time.monotonic(), StopOnRequest()
        try:
            # The random numbers go on where they stood, so nothing may draw any between that and the first step.
            with self._layout.attention(self._unwrapped), self._going_on() as bar:
                for number in range(len(self.rows) + 1, len(self._steps) + 1):
                    if self.watch.enough:
                        self.stopped_early = True
                        break
                    self._one(number, bar)
                    asked = stop.agreed()
                    if asked or (number % self._config.checkpoint_every_steps == 0 and number < len(self._steps)):
                        self._save(number)
                    if asked and number < len(self._steps):
                        raise KeyboardInterrupt
        finally:
            stop.close()
        return time.monotonic() - started

    def _going_on(self) -> AbstractContextManager[Progress | None]:
        self._go_on()
        if self._rank:
            return nullcontext()
        return progress("finetune", len(self._steps), "steps", len(self.rows))

    def weights(self) -> Named:
        """What is to be published, on the first rank: those of the last step, or of the best measurement."""
        best = self.watch.best_step
        if self._config.validation.keep_best and best is not None and best != len(self.rows):
            return state.load_best(self._folder, best) if self._rank == 0 else {}
        return self._engine.weights()

    def _one(self, number: int, bar: Progress | None) -> None:
        started = time.monotonic()
        row, tokens = self._step(number)
        held_out = self._measure(number)
        self.rows.append(Row(**asdict(row) | {"held_out_loss": held_out}))
        if bar is None:
            return
        figures: dict[str, Any] = {"loss": row.loss, "epoch": row.epoch}
        if held_out is not None:
            figures["held-out loss"] = held_out
        bar.advance(1, **figures, **{"tokens/s": round(tokens / (time.monotonic() - started))})

    def _step(self, number: int) -> tuple[Row, int]:
        """One optimizer step: (its row of the curve, tokens of all ranks)."""
        step, config = self._steps[number - 1], self._config
        self._engine.model.train()
        batches = self._batches(step.rows, self._examples, self._lengths)
        labels, tokens = self._counted(batches, [self._examples[row] for row in step.rows])
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for index, (batch, weight) in enumerate(batches):
            loss = self._loss(batch) * weight / labels
            total += loss.detach()
            self._engine.backward(loss, index + 1 == len(batches))
        rate = learning_rate(number, len(self._steps), config.learning_rate, config.warmup_ratio, config.schedule)
        norm = self._engine.step(rate)
        loss_of_step = self._summed(total)
        self._check(number, loss_of_step, norm)
        return Row(number, step.epoch, loss_of_step, rate, norm, labels), tokens

    def _batches(
        self, rows: Sequence[int], examples: Sequence[Example], lengths: Sequence[int]
    ) -> list[tuple[Batch, float]]:
        """This rank's passes with their weight: 0 for one that only keeps the other ranks company."""
        size, packed = self._config.batch.micro_samples, self._layout.packed
        every = share_out(rows, lengths, size, self._config.sequence_tokens, packed, self._ranks)
        found = []
        for micro in every[self._rank]:
            if micro:
                found.append((self._layout.batch([examples[row] for row in micro]), 1.0))
            elif self._engine.together:
                found.append((self._layout.batch([self._short]), 0.0))
        return found

    @staticmethod
    def _counted(batches: Sequence[tuple[Batch, float]], examples: Sequence[Example]) -> tuple[int, int]:
        """(label tokens, tokens) of the step; the first token of a row is no label."""
        labels = sum(sum(label != IGNORED for label in example.labels[1:]) for example in examples)
        return labels, sum(len(example.ids) for example in examples)

    def _loss(self, batch: Batch) -> torch.Tensor:
        if self._pulse:
            self._pulse.moved(len(self.rows))
        if self._noise:
            self._noise.batch = batch
        with self._engine.autocast():
            return answer_loss(self._engine.model, batch.to(self._device), self._layout.head)

    def _summed(self, value: torch.Tensor) -> float:
        """Over the ranks."""
        if self._ranks > 1:
            dist.all_reduce(value)
        return float(value)

    def _measure(self, number: int) -> float | None:
        """Loss over the rows held out where it is time for it; the best weights are kept where they are asked for."""
        last = number == len(self._steps)
        ends = not last and self._steps[number].epoch != self._steps[number - 1].epoch
        if not self._held_out or not self.watch.due(number, last, ends):
            return None
        loss = self._held_out_loss()
        if self.watch.better(number, loss) and self._config.validation.keep_best:
            weights = self._engine.weights()
            if self._rank == 0:
                state.save_best(self._folder, number, weights)
        return loss

    def _held_out_loss(self) -> float:
        self._engine.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        lengths = [len(example.ids) for example in self._held_out]
        batches = self._batches(range(len(lengths)), self._held_out, lengths)
        labels, _ = self._counted(batches, self._held_out)
        with torch.no_grad():
            for batch, weight in batches:
                total += self._loss(batch) * weight
        return self._summed(total) / labels

    def _check(self, number: int, loss: float, norm: float) -> None:
        """Stop on what no further step can mend. fp16 scales its own overflowing gradients, so they may pass."""
        dtype = self._engine.dtype
        if math.isfinite(loss) and loss != 0 and (math.isfinite(norm) or dtype == torch.float16):
            return
        code = "TRAIN-004" if loss == 0 else "TRAIN-005" if number == 1 else "TRAIN-006"
        rate = self._config.learning_rate
        figures = {"step": number, "loss": loss, "norm": norm, "precision": str(dtype).removeprefix("torch.")}
        raise failed(code, stage="finetune", key="finetune.learning_rate", rate=rate, **figures)

    def _save(self, number: int) -> None:
        """Every rank calls it; the first writes last what makes the state count."""
        beside = state.ranks_folder(self._folder, number)
        kept = {"engine": self._engine.state(beside), "rows": [asdict(row) for row in self.rows]}
        random: list[Any] = [_random()]
        if self._ranks > 1:
            random = [None] * self._ranks
            dist.all_gather_object(random, _random())
        if self._rank == 0:
            kept |= {"random": random, "watch": self.watch.as_record()}
            state.save(self._folder, number, kept, self.watch.best_step)

    def _go_on(self) -> None:
        """Take up the newest state, if there is one."""
        newest = self._newest_state()
        if not newest:
            return
        kept = state.load(self._folder, newest)
        self.rows = [Row(**row) for row in kept["rows"]]
        done = len(self.rows)
        self._engine.restore(kept["engine"], state.ranks_folder(self._folder, done))
        self.watch.restore(kept["watch"])
        _set_random(kept["random"][self._rank])
        if self._rank == 0:
            note(say("going_on", stage="finetune", step=done, steps=len(self._steps)))

    def _newest_state(self) -> int:
        """The first rank looks: a network file system may show the others an older folder."""
        found = [state.newest_step(self._folder) if self._rank == 0 else 0]
        if self._ranks > 1:
            dist.broadcast_object_list(found)
        return found[0]


def _random() -> dict[str, torch.Tensor]:
    """Where this rank's generators stand."""
    gpu = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **gpu}


def _set_random(kept: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(kept["cpu"])
    if "cuda" in kept and torch.cuda.is_available():
        torch.cuda.set_rng_state(kept["cuda"])
