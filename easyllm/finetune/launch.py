"""Train a Work: in this process where that is enough, on ranks of their own, or on those that others start."""

import shutil
from dataclasses import dataclass
from typing import Any

import torch

from easyllm.core.artifact import Decision
from easyllm.core.errors import StageFailed
from easyllm.core.launch import run_ranks
from easyllm.core.messages import say
from easyllm.core.nodes.launch import elsewhere
from easyllm.core.progress import note
from easyllm.core.stage import Job
from easyllm.core.tuning.building import Tuned, build
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.engines import Named
from easyllm.finetune.handover import outcome_of, raise_what_ended, raise_where_hung, read_outcome
from easyllm.finetune.nodes import alone, launch_of
from easyllm.finetune.training import Row
from easyllm.finetune.work import WEIGHTS, Work


@dataclass(frozen=True)
class Trained:
    """The model with what it has learnt, and how that went."""

    tuned: Tuned
    rows: list[Row]
    seconds: float
    decisions: list[Decision]


def train(job: Job[FinetuneConfig], work: Work) -> Trained:
    """Train it to its last step, from the newest state there is. Waiting where it is for others to do so."""
    if elsewhere(job):
        return _gather(job, work, outcome_of(job, work))
    return _here(work) if alone(work.config) else _on_ranks(job, work)


def _here(work: Work) -> Trained:
    from easyllm.finetune.assembly import assemble

    ready = assemble(work)
    training = ready.training
    seconds = training.run()
    _take(ready.tuned.model, training.weights())
    decisions = [*ready.decisions, *_published(work.config, training.watch.as_record(), training.stopped_early)]
    return Trained(ready.tuned, training.rows, seconds, decisions)


def _on_ranks(job: Job[FinetuneConfig], work: Work) -> Trained:
    launch = launch_of(job)
    shutil.rmtree(launch.folder, ignore_errors=True)
    job_file = work.write(launch.folder)
    env = {"CUDA_VISIBLE_DEVICES": ""} if work.device == "cpu" else {}
    try:
        run_ranks(launch.module, [str(job_file)], launch.ranks, env, ends_on_sigterm=True)
    except StageFailed:
        raise_where_hung(launch)
        raise
    outcome = read_outcome(launch)
    assert outcome is not None
    raise_what_ended(outcome)
    return _gather(job, work, outcome)


def _gather(job: Job[FinetuneConfig], work: Work, outcome: dict[str, Any]) -> Trained:
    """The ranks build the model for themselves; here it is built when they have left their weights."""
    tuned = build(work.config, work.directory, getattr(torch, work.dtype), work.seed, work.tokens, quiet=True)
    _take(tuned.model, torch.load(launch_of(job).folder / WEIGHTS, weights_only=True))
    rows = [Row(**row) for row in outcome["rows"]]
    decisions = [Decision(**entry) for entry in outcome["decisions"]]
    decisions += _published(work.config, outcome["watch"], outcome["stopped_early"])
    return Trained(tuned, rows, outcome["seconds"], decisions)


def _take(model: Any, weights: Named) -> None:
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in found.items():
            parameter.copy_(weights[name])


def _published(config: FinetuneConfig, watch: dict[str, Any], stopped_early: bool) -> list[Decision]:
    """Which weights these are, where there was a choice; told on the terminal too."""
    best, loss = watch["best_step"], watch["best_loss"]
    decisions = []
    if stopped_early:
        why = say("why_stopped_early", patience=config.validation.patience, step=best, loss=loss)
        decisions.append(Decision("early stop", True, why))
        note(say("stopped_early", why=why))
    if config.validation.keep_best and best is not None:
        why = say("why_best_step", loss=loss)
        decisions.append(Decision("weights of step", best, why))
        note(say("best_step", step=best, why=why))
    return decisions
