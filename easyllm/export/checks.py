"""What must hold before an export. Pure, no torch."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.families.weights import headers, weight_files
from easyllm.core.models import present_model
from easyllm.core.stage import Job
from easyllm.export.config import ExportConfig
from easyllm.export.gguf_files import PACKAGE, architectures, converter
from easyllm.export.licence import licence_of
from easyllm.export.v4 import v4_config

SETTINGS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def check(job: Job[ExportConfig]) -> list[Problem]:
    """The licence, what GGUF needs, and of a model that is there: its files, its rope and its architecture."""
    problems = _licence(job) + _tools(job)
    directory = present_model(job.inputs["model"], job.cache_dir) if job.ready("model") else None
    if directory is None or not directory.is_dir():
        return problems
    missing = [name for name in ("config.json", "tokenizer.json") if not (directory / name).is_file()]
    missing += [] if weight_files(directory) else ["safetensors"]
    if missing:
        key, what = "export.model", ", ".join(missing)
        return [*problems, problem("EXPORT-001", stage=job.stage, key=key, path=str(directory), what=what)]
    broken = _unreadable(job, directory)
    return problems + (broken or _layout(job, directory) + _architecture(job, directory))


def _unreadable(job: Job[ExportConfig], directory: Path) -> list[Problem]:
    """EXPORT-007 for each of the model's files that was cut or is another."""
    readers: dict[Path, Callable[[Path], Any]] = {
        directory / name: _values for name in SETTINGS if (directory / name).is_file()
    }
    readers |= dict.fromkeys(weight_files(directory), headers)
    found = []
    for file, read in readers.items():
        try:
            read(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            found.append(problem("EXPORT-007", stage=job.stage, key="export.model", path=str(file), reason=reason))
    return found


def _values(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, dict):
        raise TypeError("an object is needed")
    return found


def _licence(job: Job[ExportConfig]) -> list[Problem]:
    found = licence_of(job)
    if found is not None or not job.ready("model"):
        return []
    base = job.config.card.base_model or job.inputs["model"].ref
    return [problem("EXPORT-020", stage=job.stage, key="export.card", base=base)]


def _tools(job: Job[ExportConfig]) -> list[Problem]:
    if not job.config.gguf:
        return []
    missing = [] if converter() else [PACKAGE]
    missing += [] if find_spec("xllamacpp") else ["xllamacpp"]
    return [problem("EXPORT-013", stage=job.stage, key="export.gguf", package=name) for name in missing]


def _layout(job: Job[ExportConfig], directory: Path) -> list[Problem]:
    if not job.config.layouts:
        return []
    try:
        v4_config(json.loads((directory / "config.json").read_text("utf-8")))
    except UserError as error:
        return list(error.problems)
    return []


def _architecture(job: Job[ExportConfig], directory: Path) -> list[Problem]:
    script = converter()
    if not job.config.gguf or script is None:
        return []
    config = json.loads((directory / "config.json").read_text("utf-8"))
    names = config.get("architectures") or [str(config.get("model_type"))]
    if names[0] in architectures(script):
        return []
    return [problem("EXPORT-010", stage=job.stage, key="export.gguf", architecture=names[0])]
