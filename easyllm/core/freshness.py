"""Is what stands on disk what this recipe asks for? Equal config, inputs and seed mean nothing is done again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.artifact import is_whole, read_manifest
from easyllm.core.digest import of_file, of_value
from easyllm.core.section import Section
from easyllm.core.stage import Job


@dataclass(frozen=True)
class State:
    """Whether a stage's artifact is fresh, and if not, why: a text name of the catalogue and its params."""

    fresh: bool
    reason: str
    params: dict[str, Any]


def config_of(job: Job[Any]) -> dict[str, Any]:
    """The resolved section as plain JSON values."""
    return dict(job.config.model_dump(mode="json"))


def fingerprint(job: Job[Any]) -> str:
    """Of everything that decides the outcome: stage, config, seed and the content of every input."""
    config = _asked(job.config)
    inputs = {role: found.digest for role, found in job.inputs.items()}
    return of_value([job.stage, config, job.seed, inputs])


def digest_now(path: Path) -> str | None:
    """Of a file beside the artifact that people go on writing to, as ``records["watched"]`` keeps it; None: none."""
    return of_file(path) if path.is_file() else None


def _asked(value: Any) -> Any:
    """What decides the outcome of a section, as plain JSON values: its HOW fields are left out at every level."""
    if isinstance(value, Section):
        kept = {name: getattr(value, name) for name in type(value).model_fields if name not in value.HOW}
        plain = value.model_dump(mode="json", include=set(kept))
        return {name: _asked(kept[name]) if _holds_sections(kept[name]) else plain[name] for name in plain}
    return [_asked(entry) for entry in value] if isinstance(value, list) else value


def _holds_sections(value: Any) -> bool:
    return isinstance(value, Section) or (isinstance(value, list) and any(isinstance(v, Section) for v in value))


def state(job: Job[Any]) -> State:
    """Compare the published artifact's manifest with what the recipe asks for now."""
    final = job.run_dir / job.stage
    manifest = read_manifest(final)
    if manifest is None:
        return State(False, "not_made", {})
    for role, found in job.inputs.items():
        before = manifest.inputs.get(role, {}).get("digest")
        if before is not None and before != found.digest:
            return State(False, "input_changed", {"role": f"{role} ({found.ref})"})
    if manifest.fingerprint != fingerprint(job):
        return State(False, "config_changed", {})
    for path, digest in manifest.records.get("watched", {}).items():
        if digest_now(job.run_dir / path) != digest:
            return State(False, "input_changed", {"role": path})
    if not is_whole(final, manifest):
        return State(False, "incomplete", {})
    return State(True, "fresh", {})
