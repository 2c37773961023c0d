"""Train a Work: in this process where that is enough, else on ranks of their own."""

import json
import shutil
from dataclasses import dataclass
from typing import Any

import torch

from easyllm.core.artifact import Decision
from easyllm.core.errors import Problem, StageFailed, UserError
from easyllm.core.launch import run_ranks
from easyllm.core.messages import say
from easyllm.core.tuning.building import Tuned, build
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.engines import Named
from easyllm.finetune.plan import FOLDER, RANK_PROGRAM
from easyllm.finetune.training import Row
from easyllm.finetune.work import OUTCOME, WEIGHTS, Work


@dataclass(frozen=True)
class Trained:
    """The model with what it has learnt, and how that went."""

    tuned: Tuned
    rows: list[Row]
    seconds: float
    decisions: list[Decision]


def alone(config: FinetuneConfig) -> bool:
    """Whether training needs no process but this one."""
    return config.ranks == 1 and config.engine == "ddp"


def train(work: Work) -> Trained:
    """Train it to its last step, from the newest state there is."""
    return _here(work) if alone(work.config) else _on_ranks(work)


def _here(work: Work) -> Trained:
    from easyllm.finetune.assembly import assemble

    ready = assemble(work)
    training = ready.training
    seconds = training.run()
    _take(ready.tuned.model, training.weights())
    decisions = [*ready.decisions, *_published(work.config, training.watch.as_record(), training.stopped_early)]
    return Trained(ready.tuned, training.rows, seconds, decisions)


def _on_ranks(work: Work) -> Trained:
    """The ranks build the model for themselves; here it is built when they have left their weights."""
    folder = work.state.with_name(FOLDER)
    shutil.rmtree(folder, ignore_errors=True)
    job_file = work.write(folder)
    env = {"CUDA_VISIBLE_DEVICES": ""} if work.device == "cpu" else {}
    run_ranks(RANK_PROGRAM, [str(job_file)], work.config.ranks, env, ends_on_sigterm=True)
    outcome: dict[str, Any] = json.loads((folder / OUTCOME).read_text("utf-8"))
    _raise(outcome)
    tuned = build(work.config, work.directory, getattr(torch, work.dtype), work.seed, work.tokens, quiet=True)
    _take(tuned.model, torch.load(folder / WEIGHTS, weights_only=True))
    rows = [Row(**row) for row in outcome["rows"]]
    decisions = [Decision(**entry) for entry in outcome["decisions"]]
    decisions += _published(work.config, outcome["watch"], outcome["stopped_early"])
    return Trained(tuned, rows, outcome["seconds"], decisions)


def _raise(outcome: dict[str, Any]) -> None:
    if "refused" in outcome:
        raise UserError(*[Problem(**problem) for problem in outcome["refused"]])
    if "failed" in outcome:
        raise StageFailed(Problem(**outcome["failed"][0]))
    if "stopped" in outcome:
        raise KeyboardInterrupt


def _take(model: Any, weights: Named) -> None:
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in found.items():
            parameter.copy_(weights[name])


def _published(config: FinetuneConfig, watch: dict[str, Any], stopped_early: bool) -> list[Decision]:
    """Which weights these are, where there was a choice."""
    best, loss = watch["best_step"], watch["best_loss"]
    decisions = []
    if stopped_early:
        why = say("why_stopped_early", patience=config.validation.patience, step=best, loss=loss)
        decisions.append(Decision("early stop", True, why))
    if config.validation.keep_best and best is not None:
        decisions.append(Decision("weights of step", best, say("why_best_step", loss=loss)))
    return decisions
