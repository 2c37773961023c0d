"""What must hold before anything is read."""

from pathlib import Path

from easyllm.convert.config import ConvertConfig
from easyllm.convert.iteration import iteration
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.families.config import read_architecture
from easyllm.core.families.tables import FAMILIES
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.models import present_model
from easyllm.core.stage import Job

ONLY = {"hf": ("checkpoint", "tokenizer", "shard_mb"), "megatron": ("model", "tensor_parallel")}
"""Keys that mean something in one direction only."""


def check(job: Job[ConvertConfig]) -> list[Problem]:
    """The keys fit the direction, and the model is one that both sides can express, as far as it is there."""
    config = job.config
    other = "megatron" if config.to == "hf" else "hf"
    problems = [
        problem("CONVERT-002", stage=job.stage, key=f"convert.{name}", other=other, to=config.to)
        for name in ONLY[other]
        if name in config.model_fields_set and getattr(config, name) is not None
    ]
    if config.to == "megatron" and config.model is None:
        problems.append(problem("CONVERT-003", stage=job.stage, key="convert.model"))
    return problems or (_checkpoint(job) if config.to == "hf" else _model(job))


def _checkpoint(job: Job[ConvertConfig]) -> list[Problem]:
    """An artifact must say what model it holds, and the model must be of a family with a table."""
    found = job.inputs.get("checkpoint")
    if found is None or found.path is None:
        return []
    if found.manifest is None:
        return [] if found.stage else _foreign(found.path)
    reason = _unreadable(found.manifest.records)
    if reason is None:
        return []
    return [problem("CONVERT-001", stage=job.stage, key="convert.checkpoint", path=str(found.path), reason=reason)]


def _foreign(path: Path) -> list[Problem]:
    try:
        iteration(path)
    except UserError as error:
        return list(error.problems)
    return []


def _unreadable(records: dict[str, object]) -> str | None:
    record = records.get("architecture")
    if not isinstance(record, dict):
        return "records.architecture is missing"
    try:
        architecture = Architecture.from_record(record)
    except TypeError as error:
        return str(error).partition(" ")[2]
    if architecture.family not in FAMILIES:
        return f"family {architecture.family}, known are {', '.join(FAMILIES)}"
    return None


def _model(job: Job[ConvertConfig]) -> list[Problem]:
    found = job.inputs.get("model")
    directory = present_model(found, job.cache_dir) if found else None
    if directory is None:
        return []
    try:
        read_architecture(directory, job.stage, "convert.model")
    except UserError as error:
        return list(error.problems)
    return []
