"""Under which licence the model may be used: what the recipe says, else what the base's own card says. No guesses."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from easyllm.core.artifact import Manifest, read_manifest
from easyllm.core.messages import say
from easyllm.core.stage import Job
from easyllm.export.config import ExportConfig


def licence_of(job: Job[ExportConfig]) -> tuple[str, str] | None:
    """(licence, why), or None where nobody has said it."""
    if job.config.card.license:
        return job.config.card.license, say("why_license_recipe")
    for directory in _directories(job.inputs["model"].path, job.inputs["model"].manifest):
        found = _of_card(directory / "README.md")
        if found:
            return found, say("why_license_card")
    return None


def _directories(path: Path | None, manifest: Manifest | None) -> Iterator[Path]:
    """The model's directory, and those it was made from."""
    seen = 0
    while path is not None and seen < 10:  # a chain of bases, not a circle
        if path.is_dir():
            yield path
        base = (manifest.records.get("base") or {}) if manifest else {}
        path = Path(base["path"]) if base.get("path") else None
        manifest = read_manifest(path) if path is not None and path.is_dir() else None
        seen += 1


def _of_card(path: Path) -> str | None:
    """``license`` of a model card's front matter."""
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    if not text.startswith("---\n"):
        return None
    try:
        front = yaml.safe_load(text.split("---\n", 2)[1])
    except yaml.YAMLError:
        return None
    # Several are a choice, or all at once: only a person can say which.
    found = front.get("license") if isinstance(front, dict) else None
    return found if isinstance(found, str) and found else None
