"""What pretraining will do, in numbers a person checks before spending hours."""

from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.errors import UserError
from easyllm.core.launch import torchrun_command
from easyllm.core.megatron.architecture import VOCABULARY_MULTIPLE, Architecture
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.pretrain.architecture import architecture_of
from easyllm.pretrain.batch import BatchPlan, batch_plan
from easyllm.pretrain.checks import check
from easyllm.pretrain.config import PretrainConfig

RANK_PROGRAM = "easyllm.pretrain.train"
JOB_FILE = "job.json"
FLOAT_BYTES = 4
PROCESS_BYTES = 450_000_000
"""What Python, torch and Megatron take in each rank before there is a model (measured resident set)."""
ACTIVATIONS_PER_LAYER = 40
"""Floats kept for the backward pass per token and hidden unit in one layer, attention scores apart (estimate)."""


def plan(job: Job[PretrainConfig]) -> Plan:
    """Exact where the corpus is there; before that, what does not depend on it. UserError where checks do not hold."""
    problems = check(job)
    if problems:
        raise UserError(*problems)
    config = job.config
    batch = batch_plan(config)
    corpus = job.inputs["corpus"].manifest if "corpus" in job.inputs else None
    ledger = corpus.records["ledger"] if corpus else None
    tokens = int(corpus.records["tokens"]["tokens"]) if corpus else None
    # Until the corpus has run there is no vocabulary; without its rows the sizes are lower bounds.
    architecture = architecture_of(config, ledger or {"tokenizer_size": 0, "eod_id": 0})
    checkpoint = architecture.parameters() * FLOAT_BYTES * 3
    return Plan(
        figures=_figures(config, batch, architecture, tokens, ledger is not None) | {"checkpoint, bytes": checkpoint},
        commands=[" ".join(command(job))],
        decisions=decisions(config, architecture, batch),
        disk_bytes=checkpoint * (config.keep_checkpoints + 1),
        memory_bytes=memory_bytes(architecture, config, batch),
    )


def command(job: Job[PretrainConfig]) -> list[str]:
    """The command that trains; it runs by hand once ``easyllm`` has written the job file."""
    return torchrun_command(RANK_PROGRAM, [str(job.out / JOB_FILE)], job.config.ranks)


def _figures(
    config: PretrainConfig, batch: BatchPlan, a: Architecture, corpus_tokens: int | None, known: bool
) -> dict[str, Any]:
    per_step = config.batch.global_samples * config.sequence_tokens
    trained = per_step * config.steps
    unknown = say("after_corpus")
    return {
        "parameters": a.parameters() if known else say("and_vocabulary", parameters=a.parameters()),
        "vocabulary, rows": a.tokenizer_size if known else unknown,
        "padded vocabulary, rows": a.padded_vocabulary if known else unknown,
        "corpus, tokens": corpus_tokens if corpus_tokens is not None else unknown,
        "steps": config.steps,
        "samples": config.steps * config.batch.global_samples,
        "tokens to train on": trained,
        "tokens per step": per_step,
        "epochs": round(trained / corpus_tokens, 2) if corpus_tokens else unknown,
        "ranks": config.ranks,
        "data parallel ranks": batch.data_parallel,
        "micro batches per step and rank": batch.micro_batches,
    }


def memory_bytes(a: Architecture, config: PretrainConfig, batch: BatchPlan) -> int:
    """Estimated peak over all ranks: weights, gradients, two Adam moments, activations, logits, the processes."""
    tensor, samples = config.parallel.tensor, config.batch.micro_samples
    positions = samples * config.sequence_tokens
    states = a.parameters() * 4 // tensor
    scores = 3 * samples * a.heads * config.sequence_tokens**2 // tensor
    activations = a.layers * (positions * a.hidden * ACTIVATIONS_PER_LAYER + scores)
    logits = 4 * positions * a.padded_vocabulary // tensor
    return config.ranks * (PROCESS_BYTES + FLOAT_BYTES * (states + activations + logits))


def decisions(config: PretrainConfig, a: Architecture, batch: BatchPlan) -> list[Decision]:
    """The choices that the recipe leaves to the stage, with their reasons."""
    unit = VOCABULARY_MULTIPLE * config.parallel.tensor
    return [
        Decision(
            "padded vocabulary",
            a.padded_vocabulary or say("after_corpus"),
            say("why_padded", multiple=VOCABULARY_MULTIPLE, tensor=config.parallel.tensor, unit=unit),
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
        Decision("corpus split", say("all_for_training"), say("why_no_split")),
        Decision("dtype", a.dtype, say("why_pretrain_fp32")),
    ]
