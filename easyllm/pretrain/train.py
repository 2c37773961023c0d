"""The program that every rank runs: ``torchrun ... --module easyllm.pretrain.train JOB_FILE``."""

import json
import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyllm.core.artifact import sync_directory, write_whole
from easyllm.core.launch import die_with_parent
from easyllm.core.megatron.session import megatron_session, rank_device
from easyllm.core.messages import say
from easyllm.core.progress import Progress, note, progress
from easyllm.pretrain import checkpoints, losses
from easyllm.pretrain.batch import batch_plan
from easyllm.pretrain.job import RankJob

if TYPE_CHECKING:
    import torch

    from easyllm.pretrain.engine_megatron import MegatronEngine, StepResult


def main(job_file: Path) -> None:
    """Train from nothing or from the newest checkpoint; the first rank leaves the outcome beside the job file."""
    die_with_parent()
    job = RankJob.read(job_file)
    device = rank_device(job.device)
    with megatron_session(device, job.config.parallel.tensor, job.seed):
        _train(job, device)


def _train(job: RankJob, device: "torch.device") -> None:
    # After the session has begun: nothing of Megatron may be imported before the shim stands.
    import torch.distributed as dist

    from easyllm.pretrain.engine_megatron import MegatronEngine

    first = dist.get_rank() == 0
    engine = MegatronEngine(job.architecture, job.config, device)
    step, consumed = _resume(job, engine, first)
    if first:
        losses.keep_up_to(job.losses, step)
        checkpoints.prune(job.checkpoints, job.config.keep_checkpoints)
    broken_step = _loop(job, engine, device, step, consumed, first)
    if first:
        layers, why = engine.layers
        write_whole(job.outcome, json.dumps({"broken_step": broken_step, "layers": layers, "why": why}))
    engine.close()


def _resume(job: RankJob, engine: "MegatronEngine", first: bool) -> tuple[int, int]:
    """(steps done, samples consumed), with the newest checkpoint loaded where there is one."""
    found = checkpoints.newest(job.checkpoints)
    if found is None:
        return 0, 0
    saved = engine.load(found[1])
    if first:
        note(say("going_on", stage="pretrain", step=saved["step"], steps=job.config.steps))
    return int(saved["step"]), int(saved["consumed"])


def _loop(
    job: RankJob, engine: "MegatronEngine", device: "torch.device", step: int, consumed: int, first: bool
) -> int | None:
    """Train to the last step. None, or the step whose loss is not a number."""
    config = job.config
    dataset = _dataset(job)
    per_step = config.batch.global_samples * config.sequence_tokens
    with _bar(config.steps, step, first) as bar:
        while step < config.steps:
            started = time.perf_counter()
            result = engine.train_step(_batches(job, dataset, consumed, device))
            if not math.isfinite(result.loss):
                return step + 1
            step, consumed = step + 1, consumed + config.batch.global_samples
            if bar is not None:
                _record(job, bar, result, step, step * per_step, time.perf_counter() - started)
            if step % config.checkpoint_every_steps == 0 or step == config.steps:
                _save(job, engine, step, consumed, first)
    return None


def _dataset(job: RankJob) -> Any:
    from easyllm.pretrain.data import LedgerTokenizer, training_samples

    config = job.config
    tokenizer = LedgerTokenizer(job.architecture.tokenizer_size, job.eod_id)
    wanted = config.steps * config.batch.global_samples
    return training_samples(job.tokens, tokenizer, config.sequence_tokens, wanted, job.seed, job.out / ".samples")


def _batches(job: RankJob, dataset: Any, consumed: int, device: "torch.device") -> Any:
    from megatron.core import parallel_state

    from easyllm.pretrain.data import micro_batches

    plan = batch_plan(job.config)
    rank = parallel_state.get_data_parallel_rank()
    micro = job.config.batch.micro_samples
    return micro_batches(dataset, consumed, plan.micro_batches, micro, plan.data_parallel, rank, device)


def _bar(steps: int, done: int, first: bool) -> AbstractContextManager[Progress | None]:
    return progress("pretrain", steps, "steps", done) if first else nullcontext()


def _record(job: RankJob, bar: Progress, result: "StepResult", step: int, tokens: int, seconds: float) -> None:
    losses.append(
        job.losses, losses.Row(step, result.loss, result.learning_rate, result.grad_norm, tokens, round(seconds, 4))
    )
    per_step = tokens // step
    bar.advance(1, loss=result.loss, **{"tokens/s": round(per_step / seconds)})


def _save(job: RankJob, engine: "MegatronEngine", step: int, consumed: int, first: bool) -> None:
    if first:
        sync_directory(job.losses)  # the rows up to a checkpoint must outlive a power cut as it does
    engine.save(checkpoints.path_of(job.checkpoints, step), {"step": step, "consumed": consumed})
    if first:
        checkpoints.prune(job.checkpoints, job.config.keep_checkpoints)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
