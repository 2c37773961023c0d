"""What preference tuning will do, in numbers. Pure, no torch."""

from math import ceil
from typing import Any

from easyllm.align.checks import is_adapter, readable
from easyllm.align.config import AlignConfig
from easyllm.align.preferences import Preference, read_preferences, split
from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.core.tuning.config import TOO_LONG
from easyllm.core.tuning.layers import Header, read_header
from easyllm.core.tuning.methods import BYTES_TRAINED, trained_parameters, weight_bytes


def plan(job: Job[AlignConfig]) -> Plan:
    """Rows and steps where the data can be read, memory where the base can."""
    rate, why = rate_of(job.config)
    reference, why_reference = reference_of(job.config)
    decisions = [
        Decision("learning rate", rate, why),
        Decision("reference", reference, why_reference),
        Decision("length", job.config.too_long, say(TOO_LONG[job.config.too_long], limit=job.config.sequence_tokens)),
    ]
    figures: dict[str, Any] = {"base": job.inputs["base"].ref} | _rows(job)
    header = read_header(job.inputs["base"].path) if job.ready("base") and not is_adapter(job) else None
    if header is None:
        return Plan(figures, decisions=decisions)
    trained = trained_parameters(job.config, header)
    figures |= {"base parameters": header.parameters, "trained parameters": trained}
    # The product in fp32, and two states of weights with two moments while one replaces the other.
    disk = trained * 4 * (1 + 2 * 3)
    return Plan(figures, decisions=decisions, disk_bytes=disk, memory_bytes=_memory(job.config, header, trained))


def rate_of(config: AlignConfig) -> tuple[float, str]:
    """The highest learning rate, and why. Adapters take ten times what all weights take."""
    if config.learning_rate is not None:
        return config.learning_rate, say("why_in_recipe")
    full = 8e-6 if config.objective == "orpo" else 1e-6
    rate = full if config.method == "full" else full * 10
    return rate, say("why_align_rate", objective=config.objective, method=config.method)


def reference_of(config: AlignConfig) -> tuple[str, str]:
    """What the answers are compared with, and why it needs no second model in memory."""
    if config.objective == "orpo":
        return "none", say("why_align_no_reference")
    return "start", say("why_align_reference")


def examples_of(rows: list[Preference], objective: str) -> int:
    """Rows of the training set: pairs, or for kto single answers."""
    if objective != "kto":
        return len(rows)
    return sum((row.chosen is not None) + (row.rejected is not None) for row in rows)


def steps_of(config: AlignConfig, examples: int) -> int:
    """Optimizer steps of the whole run; the last of an epoch takes what is left."""
    steps = config.epochs * ceil(examples / config.batch.global_samples)
    return min(steps, config.max_steps or steps)


def _rows(job: Job[AlignConfig]) -> dict[str, Any]:
    if not readable(job):
        return {}
    config = job.config
    rows = list(read_preferences(job.inputs["data"].files, config.objective, job.stage))
    parts = split(rows, config.validation_rows, job.seed, job.stage)
    return {
        "rows to train on": len(parts.train),
        "rows held out": len(parts.held_out),
        "epochs": config.epochs,
        "optimizer steps": steps_of(config, examples_of(parts.train, config.objective)),
    }


def _memory(config: AlignConfig, header: Header, trained: int) -> int:
    """Weights, trained weights with gradient and moments, and what two answers a row keep for the way back."""
    tokens = 2 * config.batch.micro_samples * config.sequence_tokens
    layers = sum(sum(header.shapes[f"{name}.weight"]) for name in header.linear)
    vocabulary = max(max(shape) for shape in header.shapes.values())
    kept = trained * (BYTES_TRAINED - 4 if config.method == "full" else BYTES_TRAINED)
    return weight_bytes(config, header) + kept + tokens * (layers * 2 + vocabulary * 3) * 4
