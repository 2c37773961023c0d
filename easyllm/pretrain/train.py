"""The program that every rank runs: ``torchrun ... --module easyllm.pretrain.train JOB_FILE``."""

import json
import math
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyllm.core.artifact import sync_directory, write_whole
from easyllm.core.errors import StageFailed
from easyllm.core.launch import die_with_parent
from easyllm.core.megatron.session import megatron_session, rank_device
from easyllm.core.messages import say
from easyllm.core.nodes.heartbeat import Heartbeat
from easyllm.core.nodes.meeting import meet
from easyllm.core.progress import Progress, note, progress
from easyllm.core.stop import StopOnRequest
from easyllm.pretrain import checkpoints, losses
from easyllm.pretrain.batch import batch_plan, layout_of, samples_after, step_samples
from easyllm.pretrain.blends import Blends, held_out_share
from easyllm.pretrain.estimate import flops_per_token
from easyllm.pretrain.job import RankJob
from easyllm.pretrain.peaks import choose_peak
from easyllm.pretrain.tracking import Trackers

if TYPE_CHECKING:
    import torch

    from easyllm.core.families.weights import Weights
    from easyllm.core.megatron.checkpoint import Saving
    from easyllm.pretrain.engine import Batches, Engine, StepResult


def main(job_file: Path) -> None:
    """Train from nothing or from the newest checkpoint; the first rank leaves the outcome beside the job file."""
    die_with_parent()
    job, _store = meet(job_file, RankJob.read, "pretrain", say("its_tokens"))  # held as long as the rank lives
    device = rank_device(job.device)
    # The heartbeat is to find a hung rank first: it knows which one it is, a collective only that one is missing.
    patience = 2 * job.config.timeout_seconds + 60
    with megatron_session(device, layout_of(job.config), job.seed, patience):
        Training(job, device).run()


class Training:
    """One run on this rank: where it stands, and what it draws from."""

    def __init__(self, job: RankJob, device: "torch.device") -> None:
        # After the session has begun: nothing of Megatron may be imported before the shim stands.
        import torch.distributed as dist

        from easyllm.pretrain.engine import open_engine

        self._job, self._config, self._device = job, job.config, device
        self._rank, self._first = dist.get_rank(), dist.get_rank() == 0
        self._from = self._newest_whole()
        source = None if self._from else _first_weights(job)
        self._engine: Engine = open_engine(job.architecture, job.config, device, job.seed, job.extras, source)
        self._plan = batch_plan(job.config)
        self._step = self._consumed = 0
        self._stop = StopOnRequest()
        self._peak = choose_peak(self._config.peak_tflops, device.type, _gpu_name(device), job.architecture.dtype)
        self._measured: dict[str, float] = {}
        self._saving: Saving | None = None

    def run(self) -> None:
        """Train to the last step, to the one whose loss is no loss, or until SIGTERM."""
        self._resume()
        if self._first:
            self._job.outcome.unlink(missing_ok=True)  # of a run before
            losses.keep_up_to(self._job.losses, self._step)
            self._prune()
            shutil.rmtree(self._job.beats, ignore_errors=True)  # of a run with more ranks, perhaps
            self._trackers = Trackers(self._job, self._step)
        broken = self._loop()
        if self._first:
            self._trackers.close(finished=self._step == self._config.steps)
            layers, why = self._engine.layers
            outcome = {
                "step": self._step, "broken": broken, "layers": layers, "why": why, "measured": self._measured,
                "peak": self._peak,
            }  # fmt: skip
            write_whole(self._job.outcome, json.dumps(outcome))
        self._engine.close()

    def _resume(self) -> None:
        """Go on from the newest checkpoint that is as it was saved, where there is one."""
        if self._from is None:
            return
        saved = self._engine.load(self._from)
        self._step, self._consumed = int(saved["step"]), int(saved["consumed"])
        self._measured = dict(saved["measured"])
        if self._first:
            note(say("going_on", stage="pretrain", step=self._step, steps=self._config.steps))

    def _newest_whole(self) -> Path | None:
        """The first rank looks and drops what is damaged; all of them go on with what it found."""
        import torch.distributed as dist

        found: list[Path | None] = [None]
        if self._first:
            found = [_newest_whole(self._job.checkpoints)]
        dist.broadcast_object_list(found)
        return found[0]

    def _loop(self) -> dict[str, Any] | None:
        """None, or the step whose loss is no loss."""
        found = self._datasets()  # all ranks meet in it, so what the first has cleared away is gone
        pulse = Heartbeat(self._job.beats, self._rank, self._config.ranks, self._config.timeout_seconds)
        try:
            if self._job.start and self._step == 0:  # what the model knew before
                self._measure(found, valid="validation_loss_before", replay="replay_loss_before")
                pulse.moved(self._step)
            broken = self._steps(found, pulse)
            self._settle()
            if self._step == self._config.steps and not broken:
                self._measure(found, test="test_loss", replay="replay_loss")
            return broken
        finally:
            pulse.stop()

    def _steps(self, found: dict[str, Any], pulse: Heartbeat) -> dict[str, Any] | None:
        with _bar(self._config.steps, self._step, self._first) as bar:
            while self._step < self._config.steps:
                started = time.perf_counter()
                samples = step_samples(self._config.batch, self._consumed)
                batches, count = self._batches(found["train"], self._consumed, samples)
                result = self._engine.train_step(batches, count, samples)
                if not math.isfinite(result.loss) or result.loss == 0:
                    return {"step": self._step + 1, "zero": result.loss == 0}
                seconds = time.perf_counter() - started
                self._step, self._consumed = self._step + 1, self._consumed + samples
                pulse.moved(self._step)
                validation = self._validate(found)
                pulse.moved(self._step)
                if bar is not None:
                    self._record(bar, result, samples, seconds, validation)
                stop = self._stop.agreed()
                if self._saving is not None and self._saving.ready():
                    self._settle()
                if stop or self._due(self._config.checkpoint_every_steps):
                    self._settle()
                    self._save()
                pulse.moved(self._step)
                if stop and self._step < self._config.steps:
                    return None
        return None

    def _due(self, every: int) -> bool:
        """Whether this step is a multiple of ``every``, or the last one."""
        return self._step % every == 0 or self._step == self._config.steps

    def _datasets(self) -> dict[str, Any]:
        """By part, those that are asked for."""
        from easyllm.pretrain.data import LedgerTokenizer, datasets

        config, data, asked = self._config, self._job.data, self._config.validation
        tokenizer = LedgerTokenizer(self._job.architecture.tokenizer_size, self._job.eod_id)
        share = held_out_share(asked, data)
        wanted = {"train": samples_after(config.batch, config.steps)}
        if asked is not None:
            wanted |= {"valid": asked.samples, "test": asked.samples if data.test else 0}
        cache = self._job.out / ".samples"
        made = partial(datasets, tokenizer=tokenizer, sequence_tokens=config.sequence_tokens, seed=self._job.seed)
        found: dict[str, Any] = made(data, wanted=wanted, share=share, cache=cache)
        if asked is not None and data.replay:
            held_out = Blends(train=(), valid=data.replay)
            more = made(held_out, wanted={"valid": asked.samples}, share=None, cache=cache / "replay")
            found["replay"] = more["valid"]
        return found

    def _batches(self, dataset: Any, first: int, samples: int) -> "tuple[Batches, int]":
        """This rank's micro batches of ``samples`` samples from the ``first`` one on, and how many there are."""
        from megatron.core import parallel_state

        from easyllm.pretrain.data import micro_batches

        count, rank = samples // self._plan.unit, parallel_state.get_data_parallel_rank()
        micro, copies = self._config.batch.micro_samples, self._plan.data_parallel
        return partial(micro_batches, dataset, first, count, micro, copies, rank, self._device), count

    def _validate(self, found: dict[str, Any]) -> float | None:
        asked = self._config.validation
        if asked is None or not self._due(asked.every_steps):
            return None
        return self._held_out_loss(found["valid"])

    def _measure(self, found: dict[str, Any], **names: str) -> None:
        """Losses for the outcome, by part the names that they are kept under."""
        for part, name in names.items():
            if part in found:
                self._measured[name] = self._held_out_loss(found[part])

    def _held_out_loss(self, dataset: Any) -> float:
        assert self._config.validation is not None
        return self._engine.evaluate(*self._batches(dataset, 0, self._config.validation.samples))

    def _record(
        self, bar: Progress, result: "StepResult", samples: int, seconds: float, validation: float | None
    ) -> None:
        length = self._config.sequence_tokens
        rate = samples * length / seconds
        row = losses.Row(
            self._step, result.loss, result.learning_rate, result.grad_norm, self._consumed * length,
            round(seconds, 4), validation, round(rate, 1), self._utilisation(rate),
        )  # fmt: skip
        losses.append(self._job.losses, row)
        self._trackers.log(row)
        figures = {} if validation is None else {"validation": validation}
        if row.utilisation is not None:
            figures["utilisation"] = row.utilisation
        bar.advance(1, loss=result.loss, **{"tokens/s": round(rate)}, **figures)

    def _utilisation(self, tokens_per_second: float) -> float | None:
        peak, _ = self._peak
        if peak is None:
            return None
        work = flops_per_token(self._job.architecture, self._config.sequence_tokens) * tokens_per_second
        return round(work / (self._config.ranks * peak * 1e12), 4)

    def _save(self) -> None:
        if self._first:
            self._trackers.flush()
            sync_directory(self._job.losses)  # the rows up to a checkpoint must outlive a power cut as it does
        path = checkpoints.path_of(self._job.checkpoints, self._step)
        self._saving = self._engine.save(path, self._progress())

    def _progress(self) -> dict[str, Any]:
        return {"step": self._step, "consumed": self._consumed, "measured": self._measured}

    def _settle(self) -> None:
        """Let the checkpoint appear that is being written, where there is one."""
        if self._saving is None:
            return
        self._saving.finish()
        self._saving = None
        if self._first:
            self._prune()

    def _prune(self) -> None:
        checkpoints.prune(self._job.checkpoints, self._config.keep_checkpoints, self._config.keep_every_steps)


def _first_weights(job: RankJob) -> "Weights | None":
    if job.start is None:
        return None
    from easyllm.pretrain.start_weights import weights_of

    return weights_of(job.start, job.architecture, job.seed)


def _newest_whole(directory: Path) -> Path | None:
    from easyllm.core.megatron.files import damage

    for step, path in reversed(checkpoints.whole(directory)):
        damaged = damage(path)
        if damaged is None:
            return path
        note(say("checkpoint_damaged", stage="pretrain", step=step, file=damaged))
        shutil.rmtree(path)
    return None


def _gpu_name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def _bar(steps: int, done: int, first: bool) -> AbstractContextManager[Progress | None]:
    return progress("pretrain", steps, "steps", done) if first else nullcontext()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except StageFailed as refusal:  # every rank knows it; one says it
        if os.environ.get("RANK") == "0":
            print(refusal, file=sys.stderr)
        sys.exit(1)
