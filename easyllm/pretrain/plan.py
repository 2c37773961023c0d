"""What pretraining will do, in numbers a person checks before spending hours."""

from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.errors import UserError
from easyllm.core.megatron.architecture import VOCABULARY_MULTIPLE, Architecture, padded_vocabulary
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.pretrain import cost, deepspeed_config
from easyllm.pretrain.architecture import architecture_of
from easyllm.pretrain.batch import BatchPlan, batch_plan, layout_of, samples_after
from easyllm.pretrain.blends import Blends, blends_of, epochs_by_source, split_decision
from easyllm.pretrain.checks import check
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.deepspeed_checks import own_json
from easyllm.pretrain.estimate import FLOAT_BYTES, MASTER_AND_MOMENTS, MOMENTS, WEIGHT_BYTES
from easyllm.pretrain.fitting import Fits
from easyllm.pretrain.nodes import commands
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
    architecture, why = _architecture(job)
    checkpoint = checkpoint_bytes(architecture)
    known = {"checkpoint, bytes": checkpoint} | cost.figures(config, architecture)
    return Plan(
        figures=_figures(config, batch, architecture, tokens, blends) | known,
        commands=commands(job),
        decisions=[
            *decisions(config, architecture, batch, why, blends),
            *deepspeed_config.decision(config, architecture.dtype, own_json(job)),
            *cost.decisions(config, architecture),
        ],
        disk_bytes=checkpoint * (config.keep_checkpoints + kept_for_good(config) + 1),
        memory_bytes=cost.memory_bytes(config, architecture),
    )


def _architecture(job: Job[PretrainConfig]) -> tuple[Architecture, str]:
    """With why its numbers are what they are. Until the corpus has run there is no vocabulary: lower bounds."""
    corpus = job.inputs["corpus"].manifest if "corpus" in job.inputs else None
    ledger = corpus.records["ledger"] if corpus else {"tokenizer_size": 0, "eod_id": 0}
    dtype, why = choose_dtype(job.config.precision, "cpu" if job.config.device == "cpu" else None)
    return architecture_of(job.config, ledger, dtype), why


def layouts(job: Job[PretrainConfig], gpus: int, bytes_per_gpu: int) -> Fits:
    """The layouts of this training that fit so many GPUs of that size, best first."""
    return cost.fits(job.config, _architecture(job)[0], gpus, bytes_per_gpu)


def _figures(
    config: PretrainConfig, batch: BatchPlan, a: Architecture, corpus_tokens: int | None, blends: Blends | None
) -> dict[str, Any]:
    per_step = config.batch.global_samples * config.sequence_tokens
    samples = samples_after(config.batch, config.steps)
    trained = samples * config.sequence_tokens
    layout = layout_of(config)
    known, unknown = corpus_tokens is not None, say("after_corpus")
    return {
        "parameters": a.parameters() if known else say("and_vocabulary", parameters=a.parameters()),
        "vocabulary, rows": a.tokenizer_size if known else unknown,
        "padded vocabulary, rows": a.padded_vocabulary if known else unknown,
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


def checkpoint_bytes(a: Architecture) -> int:
    """Weights as the model has them, and the optimizer's two moments and, for half precision, its fp32 weights."""
    width = WEIGHT_BYTES[a.dtype]
    return a.parameters() * (width + (MOMENTS if width == FLOAT_BYTES else MASTER_AND_MOMENTS))


def kept_for_good(config: PretrainConfig) -> int:
    """Checkpoints that keep_every_steps adds to the newest ones."""
    return config.steps // config.keep_every_steps if config.keep_every_steps else 0


def decisions(
    config: PretrainConfig, a: Architecture, batch: BatchPlan, why_dtype: str, blends: Blends | None
) -> list[Decision]:
    """The choices that the recipe leaves to the stage, with their reasons."""
    unit = VOCABULARY_MULTIPLE * config.parallel.tensor
    kept = a.padded_vocabulary and a.padded_vocabulary != padded_vocabulary(a.tokenizer_size, config.parallel.tensor)
    why_padded = say("why_padded", multiple=VOCABULARY_MULTIPLE, tensor=config.parallel.tensor, unit=unit)
    return [
        Decision(
            "padded vocabulary",
            a.padded_vocabulary or say("after_corpus"),
            say("why_padded_before") if kept else why_padded,
        ),
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
        Decision("dtype", a.dtype, why_dtype),
    ]
