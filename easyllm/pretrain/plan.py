"""What pretraining will do, in numbers a person checks before spending hours."""

from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.errors import UserError, refuse
from easyllm.core.megatron.architecture import VOCABULARY_MULTIPLE, Architecture, padded_vocabulary
from easyllm.core.messages import say
from easyllm.core.nodes.commands import commands
from easyllm.core.stage import Job, Plan
from easyllm.pretrain import cost, deepspeed_config
from easyllm.pretrain.batch import BatchPlan, batch_plan, layout_of, samples_after
from easyllm.pretrain.blends import Blends, blends_of, epochs_by_source, split_decision
from easyllm.pretrain.checks import check
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.deepspeed_checks import own_json
from easyllm.pretrain.estimate import FLOAT_BYTES, MASTER_AND_MOMENTS, MOMENTS, WEIGHT_BYTES
from easyllm.pretrain.fitting import Fits
from easyllm.pretrain.nodes import launch_of
from easyllm.pretrain.origin import Origin, architecture_in, origin_of
from easyllm.pretrain.origin_plan import origin_decisions
from easyllm.pretrain.precision import choose_dtype


def plan(job: Job[PretrainConfig]) -> Plan:
    """Exact where the corpus is there; before that, what does not depend on it. UserError where checks do not hold."""
    problems = check(job)
    if problems:
        raise UserError(*problems)
    config = job.config
    batch = batch_plan(config)
    corpus = job.inputs["corpus"].manifest if "corpus" in job.inputs else None
    tokens = int(corpus.records["tokens"]["tokens"]) if corpus else None
    blends = blends_of(job)
    dtype, why = _dtype(config)
    origin = origin_of(job)
    chosen = [*origin_decisions(job, origin), *decisions(config, batch, dtype, why, blends)]
    chosen += deepspeed_config.decision(config, dtype, own_json(job))
    if config.init and origin is None:
        return Plan(_figures(config, batch, None, tokens, blends), commands(launch_of(job)), chosen)
    architecture = _architecture(job, origin, dtype)
    checkpoint = checkpoint_bytes(architecture)
    known = {"checkpoint, bytes": checkpoint} | cost.figures(config, architecture)
    return Plan(
        figures=_figures(config, batch, architecture, tokens, blends) | known,
        commands=commands(launch_of(job)),
        decisions=[padding_decision(config, architecture), *chosen, *cost.decisions(config, architecture)],
        disk_bytes=checkpoint * (config.keep_checkpoints + kept_for_good(config) + 1),
        memory_bytes=cost.memory_bytes(config, architecture),
    )


def _dtype(config: PretrainConfig) -> tuple[str, str]:
    return choose_dtype(config.precision, "cpu" if config.device == "cpu" else None)


def _architecture(job: Job[PretrainConfig], origin: Origin | None, dtype: str) -> Architecture:
    """Until the corpus has run there is no vocabulary but that of a model to go on from: lower bounds."""
    corpus = job.inputs["corpus"].manifest if "corpus" in job.inputs else None
    ledger = corpus.records["ledger"] if corpus else {"tokenizer_size": 0, "eod_id": 0}
    return architecture_in(job.config, origin, ledger, dtype)


def layouts(job: Job[PretrainConfig], gpus: int, bytes_per_gpu: int) -> Fits:
    """The layouts of this training that fit so many GPUs of that size, best first."""
    origin = origin_of(job)
    if job.config.init and origin is None:
        raise refuse("PRETRAIN-104", stage=job.stage, key="pretrain.init", ref=job.config.init)
    architecture = _architecture(job, origin, _dtype(job.config)[0])
    return cost.fits(job.config, architecture, gpus, bytes_per_gpu)


def _figures(
    config: PretrainConfig, batch: BatchPlan, a: Architecture | None, corpus_tokens: int | None, blends: Blends | None
) -> dict[str, Any]:
    per_step = config.batch.global_samples * config.sequence_tokens
    samples = samples_after(config.batch, config.steps)
    trained = samples * config.sequence_tokens
    layout = layout_of(config)
    unknown = say("after_corpus")
    return {
        **_size(config, a, corpus_tokens is not None),
        "corpus, tokens": corpus_tokens if corpus_tokens is not None else unknown,
        "steps": config.steps,
        "samples": samples,
        "tokens to train on": trained,
        "tokens per step": per_step,
        "epochs": round(trained / corpus_tokens, 2) if corpus_tokens else unknown,
        **(epochs_by_source(blends, trained) if blends else {}),
        "ranks": config.ranks,
        "tensor x pipeline x context ranks": f"{layout.tensor} x {layout.pipeline} x {layout.context}",
        "data parallel ranks": batch.data_parallel,
        "micro batches per step and rank": batch.micro_batches,
    }


def _size(config: PretrainConfig, a: Architecture | None, known: bool) -> dict[str, Any]:
    """``known``: whether the corpus is, and with it the tokens that the model must have rows for."""
    names = ("parameters", "vocabulary, rows", "padded vocabulary, rows")
    if a is None:
        return dict.fromkeys(names, say("after_init"))
    if known or config.init:
        return dict(zip(names, (a.parameters(), a.tokenizer_size, a.padded_vocabulary), strict=True))
    unknown = say("after_corpus")
    return dict(zip(names, (say("and_vocabulary", parameters=a.parameters()), unknown, unknown), strict=True))


def checkpoint_bytes(a: Architecture) -> int:
    """Weights as the model has them, and the optimizer's two moments and, for half precision, its fp32 weights."""
    width = WEIGHT_BYTES[a.dtype]
    return a.parameters() * (width + (MOMENTS if width == FLOAT_BYTES else MASTER_AND_MOMENTS))


def kept_for_good(config: PretrainConfig) -> int:
    """Checkpoints that keep_every_steps adds to the newest ones."""
    return config.steps // config.keep_every_steps if config.keep_every_steps else 0


def padding_decision(config: PretrainConfig, a: Architecture) -> Decision:
    unit = VOCABULARY_MULTIPLE * config.parallel.tensor
    kept = a.padded_vocabulary and a.padded_vocabulary != padded_vocabulary(a.tokenizer_size, config.parallel.tensor)
    why_padded = say("why_padded", multiple=VOCABULARY_MULTIPLE, tensor=config.parallel.tensor, unit=unit)
    why = say("why_padded_before") if kept else why_padded
    return Decision("padded vocabulary", a.padded_vocabulary or say("after_corpus"), why)


def decisions(
    config: PretrainConfig, batch: BatchPlan, dtype: str, why_dtype: str, blends: Blends | None
) -> list[Decision]:
    """The choices that the recipe leaves to the stage, with their reasons."""
    return [
        Decision(
            "micro batches",
            batch.micro_batches,
            say(
                "why_micro_batches",
                samples=config.batch.global_samples,
                micro=config.batch.micro_samples,
                ranks=batch.data_parallel,
            ),
        ),
        split_decision(config.validation, blends),
        *_going_on(config),
        Decision("dtype", dtype, why_dtype),
    ]


def _going_on(config: PretrainConfig) -> list[Decision]:
    """What the recipe does so that a model takes up the new and keeps the old."""
    found, optimizer, replay = [], config.optimizer, config.replay
    if config.init and optimizer.warmup_steps:
        first = optimizer.warmup_from or optimizer.learning_rate / optimizer.warmup_steps
        rates = say("rates", first=first, most=optimizer.learning_rate, steps=optimizer.warmup_steps)
        found.append(Decision("re-warming", rates, say("why_rewarming")))
    if replay is not None:
        share = say("replay_share", share=f"{replay.share:.4g}", corpus=replay.corpus)
        found.append(Decision("replay", share, say("why_replay")))
    return found
