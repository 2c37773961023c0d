"""Pretraining: write the job file, start the ranks, gather what they made."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.deepspeed_ops import prebuild
from easyllm.core.errors import StageFailed, UserError, failed, refuse
from easyllm.core.launch import run_ranks
from easyllm.core.messages import say
from easyllm.core.models import local_model
from easyllm.core.nodes.handover import clear
from easyllm.core.nodes.heartbeat import read_hung
from easyllm.core.nodes.launch import elsewhere
from easyllm.core.progress import note
from easyllm.core.stage import Job, Result
from easyllm.pretrain import checkpoints, deepspeed_config, losses
from easyllm.pretrain.batch import batch_plan
from easyllm.pretrain.blends import blends_of
from easyllm.pretrain.checks import check
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.deepspeed_checks import own_json
from easyllm.pretrain.deepspeed_config import Extras
from easyllm.pretrain.handover import finished, hand_over, read_outcome
from easyllm.pretrain.job import RankJob, Start
from easyllm.pretrain.new_rows import FILE as NEW_ROWS
from easyllm.pretrain.new_rows import new_rows
from easyllm.pretrain.nodes import launch_of
from easyllm.pretrain.origin import Origin, architecture_in, origin_of
from easyllm.pretrain.origin_plan import origin_decisions, origin_record
from easyllm.pretrain.plan import decisions, padding_decision
from easyllm.pretrain.precision import DTYPES, choose_dtype

LAST_STEPS = 10
"""The last loss is told alone and as the mean over so many steps."""


def run(job: Job[PretrainConfig]) -> Result:
    """Train, or go on with what a cut run left in ``job.out``; the artifact is a checkpoint with its loss curve."""
    corpus = job.inputs["corpus"]
    if corpus.path is None or corpus.manifest is None:
        raise refuse("INPUT-005", stage=job.stage, key="pretrain.corpus", ref=corpus.ref)
    origin = _origin(job)
    device, device_decision = _device(job)
    dtype, why_dtype = _dtype(job, device)
    rank_job = rank_job_of(job, device, dtype, origin)
    final = job.out / "checkpoint"
    if not final.is_dir():  # it stands already where a kill came between training and publishing
        (_await if elsewhere(job) else _train)(job, rank_job)
        os.rename(checkpoints.path_of(rank_job.checkpoints, job.config.steps), final)
    return _gather(job, rank_job, corpus.path, origin, device_decision, why_dtype)


def _origin(job: Job[PretrainConfig]) -> Origin | None:
    """The model to go on from, brought here and checked again now that it is."""
    if "init" not in job.inputs:
        return None
    directory = local_model(job.inputs["init"], job.cache_dir, job.stage)
    wrong = check(job, directory)
    if wrong:
        raise UserError(*wrong)
    return origin_of(job, directory)


def rank_job_of(job: Job[PretrainConfig], device: str, dtype: str, origin: Origin | None = None) -> RankJob:
    """What the ranks are told, resolved from a recipe whose corpus, and the model to go on from, are there."""
    blends, ledger = blends_of(job), _ledger(job)
    assert blends is not None
    return RankJob(
        config=job.config,
        architecture=architecture_in(job.config, origin, ledger, dtype, _padded_before(job)),
        seed=job.seed,
        device=device,
        data=blends,
        eod_id=int(ledger["eod_id"]),
        out=job.out,
        interface=job.cluster.interface if job.cluster else None,
        extras=_extras(job, device),
        start=_start(job, origin) if origin else None,
    )


def _ledger(job: Job[PretrainConfig]) -> dict[str, Any]:
    """Of the corpus, which is there."""
    corpus = job.inputs["corpus"].manifest
    assert corpus is not None
    return dict(corpus.records["ledger"])


def _start(job: Job[PretrainConfig], origin: Origin) -> Start:
    """The model's files, and beside the job file what the rows of new tokens begin as."""
    rows = new_rows(job, origin)
    if rows is None:
        return Start(origin.directory)
    rows.write(job.out / NEW_ROWS)
    return Start(origin.directory, job.out / NEW_ROWS)


def _device(job: Job[PretrainConfig]) -> tuple[str, Decision]:
    if elsewhere(job):  # this machine may be the one from which jobs are sent, without a GPU
        device = "cpu" if job.config.device == "cpu" else "cuda"
        return device, Decision("device", device, say("why_cpu_asked" if device == "cpu" else "why_cluster_gpus"))
    from easyllm.core.megatron.session import choose_device

    device, found, why = choose_device(job.config.device)
    if device == "cuda" and found < job.config.ranks:
        raise refuse("PRETRAIN-005", stage=job.stage, key="pretrain.ranks", ranks=job.config.ranks, found=found)
    if device == "cpu":
        why = say("why_gloo", why=why)
    note(say("ranks_on", ranks=job.config.ranks, device=device, why=why))
    return device, Decision("device", device, why)


def _extras(job: Job[PretrainConfig], device: str) -> Extras:
    """What engine deepspeed needs besides, made ready before any rank starts."""
    if job.config.engine != "deepspeed":
        return Extras()
    if device == "cpu" and job.config.precision == "fp16":
        raise refuse("PRETRAIN-080", stage=job.stage, key="pretrain.precision")
    offload = job.config.deepspeed.offload_optimizer == "cpu"
    return Extras(own_json(job), prebuild(job.cache_dir, device) if offload else None)


def _padded_before(job: Job[PretrainConfig]) -> int | None:
    """The padded vocabulary of the checkpoints that a cut run left, perhaps on another layout."""
    job_file, tensor = launch_of(job).job_file, job.config.parallel.tensor
    if not job_file.is_file() or not checkpoints.whole(job.out / "checkpoints"):
        return None
    padded = int(json.loads(job_file.read_text("utf-8"))["architecture"]["padded_vocabulary"])
    if padded % tensor:
        raise refuse("PRETRAIN-019", stage=job.stage, key="pretrain.parallel.tensor", padded=padded, tensor=tensor)
    return padded


def _dtype(job: Job[PretrainConfig], device: str) -> tuple[str, str]:
    if elsewhere(job) and device == "cuda" and job.config.precision == "auto":
        return DTYPES["bf16"], say("why_bf16_cluster", stage=job.stage)
    return choose_dtype(job.config.precision, device, device == "cuda" and _has_bf16())


def _has_bf16() -> bool:
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _await(job: Job[PretrainConfig], rank_job: RankJob) -> None:
    """Return once others have trained; until then Waiting says what to start, or how far it is."""
    if finished(rank_job):
        return
    broken, hung = (read_outcome(rank_job) or {}).get("broken"), read_hung(rank_job.beats)
    waiting = hand_over(job, rank_job)  # the commands stay good, whatever ended the ranks
    if broken:
        raise _broken(job, broken)
    if hung:
        raise _hung(job, hung)
    raise waiting


def _train(job: Job[PretrainConfig], rank_job: RankJob) -> None:
    rank_job.outcome.unlink(missing_ok=True)
    shutil.rmtree(rank_job.beats, ignore_errors=True)
    launch = launch_of(job)
    rank_job.write(launch.job_file)
    try:
        run_ranks(launch.module, [str(launch.job_file)], launch.ranks, ends_on_sigterm=True)
    except StageFailed as error:
        hung = read_hung(rank_job.beats)
        if not hung:
            raise
        raise _hung(job, hung) from error
    outcome = read_outcome(rank_job)
    assert outcome is not None
    if outcome["broken"]:
        raise _broken(job, outcome["broken"])
    if outcome["step"] < job.config.steps:
        raise KeyboardInterrupt  # the ranks were told to end, not we: by Slurm, say


def _broken(job: Job[PretrainConfig], broken: dict[str, Any]) -> StageFailed:
    """The diagnosis of a loss that is no loss."""
    rate, key = job.config.optimizer.learning_rate, "pretrain.optimizer.learning_rate"
    if broken["zero"]:
        return failed("PRETRAIN-021", stage=job.stage, key="pretrain.corpus", step=broken["step"])
    if broken["step"] == 1:
        precision, model = job.config.precision, job.config.model
        if model is None:
            return failed("PRETRAIN-102", stage=job.stage, key="pretrain.init", precision=precision)
        init = model.init_std
        return failed("PRETRAIN-020", stage=job.stage, key="pretrain.model.init_std", init=init, precision=precision)
    return failed("PRETRAIN-006", stage=job.stage, key=key, step=broken["step"], rate=rate)


def _hung(job: Job[PretrainConfig], hung: list[dict[str, Any]]) -> StageFailed:
    names = ", ".join(str(beat["rank"]) for beat in hung)
    first, seconds = hung[0], job.config.timeout_seconds
    return failed(
        "PRETRAIN-022", stage=job.stage, key="pretrain.timeout_seconds", ranks=names, seconds=seconds,
        host=first["host"], pid=first["pid"], at=first["at"], step=first["step"] + 1,
    )  # fmt: skip


def _gather(
    job: Job[PretrainConfig],
    rank_job: RankJob,
    corpus: Path,
    origin: Origin | None,
    device: Decision,
    why_dtype: str,
) -> Result:
    rows = losses.read(rank_job.losses)
    title = f"{job.recipe}: {rank_job.architecture.parameters():,} parameters, {rows[-1].tokens:,} tokens"
    losses.picture(rows, job.out / "losses.png", title)
    shutil.copytree(corpus / "tokenizer", job.out / "tokenizer", dirs_exist_ok=True)
    _keep_for_good(rank_job)
    clear(launch_of(job))
    batch, outcome = batch_plan(job.config), read_outcome(rank_job)
    assert outcome is not None
    layers = Decision("layers", outcome["layers"], outcome["why"])
    tflops, why_peak = outcome["peak"]
    peak = Decision("peak", say("not_given") if tflops is None else f"{tflops:g} TFLOPS", why_peak)
    chosen = [
        *origin_decisions(job, origin),
        padding_decision(job.config, rank_job.architecture),
        *decisions(job.config, batch, rank_job.architecture.dtype, why_dtype, rank_job.data),
        *deepspeed_config.decision(job.config, rank_job.architecture.dtype, rank_job.extras.own),
    ]
    return Result(
        kind="checkpoint",
        metrics=metrics(rows) | outcome["measured"],
        decisions=[device, layers, peak, *chosen],
        records={
            "architecture": rank_job.architecture.as_record(),
            "ledger": _ledger(job),
            **({"init": origin_record(job, origin)} if origin else {}),
        },
    )


def _keep_for_good(rank_job: RankJob) -> None:
    """Only what keep_every_steps asks for is published beside the last checkpoint."""
    every = rank_job.config.keep_every_steps
    checkpoints.prune(rank_job.checkpoints, 0, every)
    if rank_job.checkpoints.is_dir() and not any(rank_job.checkpoints.iterdir()):
        rank_job.checkpoints.rmdir()


def metrics(rows: list[losses.Row]) -> dict[str, Any]:
    """What the loss curve says in a few numbers."""
    last = rows[-LAST_STEPS:]
    seconds = sum(row.seconds for row in rows)
    held_out = [row.validation for row in rows if row.validation is not None]
    reached = [row.utilisation for row in last if row.utilisation is not None]
    return {
        **({"model_flops_utilisation": round(sum(reached) / len(reached), 4)} if reached else {}),
        **({"validation_loss": held_out[-1]} if held_out else {}),
        "first_loss": rows[0].loss,
        "last_loss": rows[-1].loss,
        "last_loss_mean": sum(row.loss for row in last) / len(last),
        "tokens": rows[-1].tokens,
        "tokens_per_second": round(rows[-1].tokens / seconds, 1),
        "seconds": round(seconds, 2),
        "steps": rows[-1].step,
    }
