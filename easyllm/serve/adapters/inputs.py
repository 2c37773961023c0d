"""The adapters of a recipe: what can be refused before anything is loaded, and what they will take. No torch."""

from pathlib import Path

from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.inputs import Input
from easyllm.core.messages import say
from easyllm.core.stage import Job
from easyllm.core.tuning.layers import read_header
from easyllm.serve.adapters.files import (
    AdapterFiles,
    base_problems,
    fit_problems,
    header_layers,
    rank_problems,
    read_files,
    room_problems,
)  # fmt: skip
from easyllm.serve.adapters.settings import AdapterSettings, adapter_settings
from easyllm.serve.config import ServeConfig

RESERVED = ("tgi", "dummy")
"""What clients of text-generation-inference call the base."""


def adapter_inputs(job: Job[ServeConfig]) -> dict[str, Input]:
    """By name, those that stand on disk now."""
    roles = {name: f"adapters.{name}" for name in job.config.adapters}
    return {name: job.inputs[role] for name, role in roles.items() if job.ready(role)}


def settings_of(job: Job[ServeConfig]) -> AdapterSettings:
    """For the server process."""
    paths = tuple((name, found.path) for name, found in adapter_inputs(job).items() if found.path)
    return adapter_settings(job.config, paths, job.inputs["model"].digest)


def readable_adapters(job: Job[ServeConfig]) -> tuple[list[AdapterFiles], list[Problem]]:
    """(the files of those that are LoRA adapters, SERVE-050 and SERVE-051 of the others)."""
    files: list[AdapterFiles] = []
    problems: list[Problem] = []
    for name, found in adapter_inputs(job).items():
        try:
            files.append(read_files(name, found.path or Path(), f"serve.adapters.{name}"))
        except UserError as error:
            problems += error.problems
    return files, problems


def adapter_problems(job: Job[ServeConfig], base: Path | None) -> list[Problem]:
    """SERVE-050 to SERVE-057, as far as JSON files and the headers of weights tell; ``base``: its directory."""
    config = job.config
    found = admin_problems(config)
    if config.adapters and config.engine != "embedded":
        return [*found, problem("SERVE-057", stage="serve", key="serve.adapters", reason=say("adapters_elsewhere"))]
    for name in config.adapters:
        if name in (config.name or job.recipe, *RESERVED):
            reason = say("adapter_reserved")
            found.append(problem("SERVE-055", stage="serve", key=f"serve.adapters.{name}", name=name, reason=reason))
    files, broken = readable_adapters(job)
    found += broken
    digest = job.inputs["model"].digest if job.ready("model") else None
    header = read_header(base) if files and base else None
    for one in files:
        key = f"serve.adapters.{one.name}"
        found += base_problems(one, digest, key) + rank_problems(one, config.max_adapter_rank, key)
        found += fit_problems(one, header_layers(header, one), key) if header else []
    total = sum(one.bytes for one in files)
    most_bytes = round(config.max_adapters_gb * 1e9)
    return found + room_problems(len(config.adapters), total, config.max_adapters, most_bytes, "serve.adapters")


def admin_problems(config: ServeConfig) -> list[Problem]:
    """SERVE-057 for settings of the admin route that do not go together."""
    if config.admin and config.engine != "embedded":
        return [problem("SERVE-057", stage="serve", key="serve.admin", reason=say("adapters_elsewhere"))]
    if config.adapters_dir and not config.admin:
        return [problem("SERVE-057", stage="serve", key="serve.adapters_dir", reason=say("adapters_dir_unused"))]
    folder = Path(config.adapters_dir) if config.adapters_dir else None
    if config.admin and not (folder and folder.is_absolute() and folder.is_dir()):
        reason = say("adapters_dir_missing", path=config.adapters_dir or "-")
        return [problem("SERVE-057", stage="serve", key="serve.adapters_dir", reason=reason)]
    return []


def adapter_bytes(job: Job[ServeConfig]) -> int:
    """What the adapters take in memory; with the admin route, the most they may."""
    if job.config.admin:
        return round(job.config.max_adapters_gb * 1e9)
    return sum(one.bytes for one in readable_adapters(job)[0])
