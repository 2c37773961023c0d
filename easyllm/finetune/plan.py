"""What finetuning will do, in numbers. Pure, no torch."""

from math import ceil
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.conversations import read_conversations
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.core.tuning.layers import Header, last_names, read_header
from easyllm.core.tuning.methods import BYTES_TRAINED, trained_parameters, weight_bytes
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
    trained = trained_parameters(config, header)
    figures |= {"base parameters": header.parameters, "trained parameters": trained}
    if config.method == "full":
        decisions.append(Decision("weights", "all", say("why_full")))
    elif config.lora.targets == "auto":
        decisions.append(Decision("targets", last_names(header.linear), say("why_auto_targets")))
    # What is published, and two states of weights with two moments in fp32 while one replaces the other.
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


def _memory(config: FinetuneConfig, header: Header, trained: int) -> int:
    """Weights, gradients and moments of what is trained, and what one micro batch keeps for the way back.

    The last is the widest row times inputs and outputs of every layer, twice (norms, activations, attention),
    and three copies of its logits.
    """
    tokens = config.batch.micro_samples * config.sequence_tokens
    layers = sum(sum(header.shapes[f"{name}.weight"]) for name in header.linear)
    vocabulary = max(max(shape) for shape in header.shapes.values())
    kept = 0 if config.method == "full" else weight_bytes(config, header)
    return kept + trained * BYTES_TRAINED + tokens * (layers * 2 + vocabulary * 3) * 4
