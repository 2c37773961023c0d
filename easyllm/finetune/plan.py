"""What finetuning will do, in numbers. Pure, no torch."""

from math import ceil
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.conversations import read_conversations
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.core.tuning.layers import Header, last_names, read_header, unknown_targets
from easyllm.finetune.checks import CHECKED_BYTES
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.split import split


def plan(job: Job[FinetuneConfig]) -> Plan:
    """Rows and steps where the data can be read, layers and memory where the base can."""
    config = job.config
    header = read_header(job.inputs["base"].path) if job.ready("base") else None
    figures: dict[str, Any] = {"base": job.inputs["base"].ref} | _rows(job)
    decisions = [Decision("length", config.too_long, say("why_never_cut", limit=config.sequence_tokens))]
    if header is None:
        return Plan(figures, decisions=decisions)
    linear = header.linear
    chosen = linear if config.lora.targets == "auto" else _matching(config.lora.targets, linear)
    trained = config.lora.rank * sum(sum(header.shapes[f"{name}.weight"]) for name in chosen)
    figures |= {"base parameters": header.parameters, "trained parameters": trained}
    if config.lora.targets == "auto":
        decisions.append(Decision("targets", last_names(linear), say("why_auto_targets")))
    # The adapter, and two states of weights with two moments in fp32 while one replaces the other.
    disk = trained * 4 * (1 + 2 * 3)
    return Plan(figures, decisions=decisions, disk_bytes=disk, memory_bytes=_memory(config, header, trained))


def _rows(job: Job[FinetuneConfig]) -> dict[str, Any]:
    files = job.inputs["data"].files
    if not job.ready("data") or sum(file.stat().st_size for file in files) > CHECKED_BYTES:
        return {}
    parts = split(list(read_conversations(files, job.stage)), job.config.validation_rows, job.seed, files)
    steps = job.config.epochs * ceil(len(parts.train) / job.config.batch.global_samples)
    return {
        "rows to train on": len(parts.train),
        "rows held out": len(parts.held_out),
        "epochs": job.config.epochs,
        "optimizer steps": steps,
    }


def _matching(targets: list[str] | str, linear: list[str]) -> list[str]:
    return [name for name in linear if len(unknown_targets(targets, [name])) < len(targets)]


def _memory(config: FinetuneConfig, header: Header, trained: int) -> int:
    """fp32 weights, trained weights with gradient and moments, and what one micro batch keeps for the way back.

    The last is the widest row times inputs and outputs of every layer, twice (norms, activations, attention),
    and three copies of its logits.
    """
    tokens = config.batch.micro_samples * config.sequence_tokens
    layers = sum(sum(header.shapes[f"{name}.weight"]) for name in header.linear)
    vocabulary = max(max(shape) for shape in header.shapes.values())
    return header.parameters * 4 + trained * 16 + tokens * (layers * 2 + vocabulary * 3) * 4
