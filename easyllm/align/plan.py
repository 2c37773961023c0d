"""What preference tuning will do, in numbers. Pure, no torch."""

from math import ceil
from typing import Any

from easyllm.align.checks import readable
from easyllm.align.config import AlignConfig
from easyllm.align.preferences import Preference, read_preferences, split
from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.stage import Job, Plan
from easyllm.core.tuning.layers import read_header


def plan(job: Job[AlignConfig]) -> Plan:
    """Rows and steps where the data can be read, memory where the base can."""
    rate, why = rate_of(job.config)
    decisions = [Decision("learning rate", rate, why), Decision("reference", *reference_of(job.config))]
    figures: dict[str, Any] = {"base": job.inputs["base"].ref} | _rows(job)
    manifest = job.inputs["base"].manifest
    is_adapter = manifest is not None and manifest.kind == "adapter"
    header = read_header(job.inputs["base"].path) if job.ready("base") and not is_adapter else None
    if header is None:
        return Plan(figures, decisions=decisions)
    layers = sum(sum(header.shapes[f"{name}.weight"]) for name in header.linear)
    full = job.config.method == "full"
    trained = header.parameters if full else job.config.lora.rank * layers
    figures |= {"base parameters": header.parameters, "trained parameters": trained}
    return Plan(
        figures,
        decisions=decisions,
        disk_bytes=trained * 4 * (1 + 2 * 3),  # the product, and two states while one replaces the other
        memory_bytes=_memory(job.config, header.parameters, layers, trained, header.shapes),
    )


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


def _memory(config: AlignConfig, parameters: int, layers: int, trained: int, shapes: dict[str, Any]) -> int:
    """fp32 weights, trained weights with gradient and moments, and two answers a row kept for the way back."""
    tokens = 2 * config.batch.micro_samples * config.sequence_tokens
    vocabulary = max(max(shape) for shape in shapes.values())
    weight_bytes = {"int8": 1, "qlora": 0.6}.get(config.method, 4)
    return int(parameters * weight_bytes) + trained * 16 + tokens * (layers * 2 + vocabulary * 3) * 4
