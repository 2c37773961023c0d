"""What must hold before an export. Pure, no torch."""

import json
from importlib.util import find_spec
from pathlib import Path

from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.families.weights import weight_files
from easyllm.core.models import present_model
from easyllm.core.stage import Job
from easyllm.export.config import ExportConfig
from easyllm.export.gguf_files import PACKAGE, architectures, converter
from easyllm.export.licence import licence_of
from easyllm.export.v4 import v4_config


def check(job: Job[ExportConfig]) -> list[Problem]:
    """The licence, what GGUF needs, and of a model that is there: its files, its rope and its architecture."""
    problems = _licence(job) + _tools(job)
    directory = present_model(job.inputs["model"], job.cache_dir) if job.ready("model") else None
    if directory is None or not directory.is_dir():
        return problems
    missing = [name for name in ("config.json", "tokenizer.json") if not (directory / name).is_file()]
    missing += [] if weight_files(directory) else ["safetensors"]
    if missing:
        here = {"path": str(directory), "what": ", ".join(missing)}
        return [*problems, problem("EXPORT-001", stage=job.stage, key="export.model", **here)]
    return problems + _layout(job, directory) + _architecture(job, directory)


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
