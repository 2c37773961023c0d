"""What finetuning will do, in numbers. Pure, no torch."""

from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.conversations import Share
from easyllm.core.messages import say
from easyllm.core.nodes.commands import commands
from easyllm.core.nodes.launch import elsewhere
from easyllm.core.stage import Job, Plan
from easyllm.core.tuning.config import TOO_LONG
from easyllm.core.tuning.layers import Header, last_names, read_header
from easyllm.core.tuning.methods import BYTES_TRAINED, trained_parameters, weight_bytes
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.nodes import alone, launch_of
from easyllm.finetune.order import rows_in_epoch
from easyllm.finetune.sources import data_files, data_rows, readable
from easyllm.finetune.split import split

BYTES_WEIGHT = 4


def plan(job: Job[FinetuneConfig]) -> Plan:
    """Rows and steps where the data can be read, layers and memory where the base can."""
    config = job.config
    header = read_header(job.inputs["base"].path) if job.ready("base") else None
    figures: dict[str, Any] = {"base": job.inputs["base"].ref} | _rows(job)
    decisions = [Decision("length", config.too_long, say(TOO_LONG[config.too_long], limit=config.sequence_tokens))]
    started = _commands(job)
    if header is None:
        return Plan(figures, started, decisions)
    trained = trained_parameters(config, header)
    figures |= {"base parameters": header.parameters, "trained parameters": trained}
    if config.method == "full":
        decisions.append(Decision("weights", "all", say("why_full")))
    elif config.lora.targets == "auto":
        decisions.append(Decision("targets", last_names(header.linear), say("why_auto_targets")))
    # What is published, and two states of weights with two moments in fp32 while one replaces the other.
    disk = trained * 4 * (1 + 2 * 3)
    return Plan(figures, started, decisions, disk, _memory(config, header, trained))


def _commands(job: Job[FinetuneConfig]) -> list[str]:
    """What starts the ranks, once ``run`` has left the rows and the job file; none where one process does it."""
    if alone(job.config) and not elsewhere(job):
        return []
    return commands(launch_of(job))


def _rows(job: Job[FinetuneConfig]) -> dict[str, Any]:
    if not readable(job):
        return {}
    parts = split(list(data_rows(job)), job.config.validation_rows, job.seed, data_files(job))
    shares = [row.share for row in parts.train]
    counted = Counter(shares)
    weighed = any(share.weight != 1 for share in counted)
    sources = [f"{share.entry} ({rows:,} x {share.weight:g})" for share, rows in counted.items()] if weighed else []
    return {
        **({"rows by weight": ", ".join(sources), "rows in an epoch": rows_in_epoch(shares, 1)} if sources else {}),
        "rows to train on": len(parts.train),
        "rows held out": len(parts.held_out),
        "epochs": job.config.epochs,
        "optimizer steps": _steps(shares, job.config),
    }


def _steps(shares: Sequence[Share], config: FinetuneConfig) -> int:
    steps = 0
    for epoch in range(1, config.epochs + 1):
        steps += ceil(rows_in_epoch(shares, epoch) / config.batch.global_samples)
        if config.max_steps and steps >= config.max_steps:
            return config.max_steps
    return steps


def _memory(config: FinetuneConfig, header: Header, trained: int) -> int:
    """Of all ranks together: weights, gradients, moments, and what one micro batch keeps for the way back.

    The last is the widest row times inputs and outputs of every layer, twice (norms, activations, attention),
    and three copies of its logits.
    """
    tokens = config.batch.micro_samples * config.sequence_tokens
    layers = sum(sum(header.shapes[f"{name}.weight"]) for name in header.linear)
    vocabulary = max(max(shape) for shape in header.shapes.values())
    kept = 0 if config.method == "full" else weight_bytes(config, header)
    passes = tokens * (layers * 2 + vocabulary * 3) * 4
    whole = kept + trained * BYTES_WEIGHT  # on every rank, unless it is cut into shards
    copies = 1 if config.engine == "fsdp" or _zero(config) == 3 else config.ranks
    gradients = trained * BYTES_WEIGHT * (1 if _zero(config) >= 2 or config.engine == "fsdp" else config.ranks)
    moments = trained * (BYTES_TRAINED - 2 * BYTES_WEIGHT)
    moments *= 1 if _zero(config) >= 1 or config.engine == "fsdp" else config.ranks
    return whole * copies + gradients + moments + passes * config.ranks


def _zero(config: FinetuneConfig) -> int:
    return config.deepspeed.zero if config.engine == "deepspeed" else 0
