"""A stage's output is a directory that appears whole: written beside, fsynced, renamed, its manifest last."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from easyllm.core.errors import refuse

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Decision:
    """A choice the stage made, with its reason; ``plan`` prints it and the manifest keeps it."""

    what: str
    """An English name, which ``term`` knows in every language."""
    value: Any
    why: str
    """A sentence made by ``say``: documents and manifests keep it in the language of the run that made it."""


@dataclass(frozen=True)
class Manifest:
    """What an artifact says of itself. Written last, so a directory with one is whole."""

    kind: str
    """corpus, checkpoint, model, adapter, rows, scores or served."""
    stage: str
    recipe: str
    fingerprint: str
    """Of the config, the inputs and the seed: equal means nothing has to be done again."""
    digest: str
    """Of the outputs' names and contents."""
    config: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    """By role: {"ref", "path", "digest"}."""
    outputs: list[dict[str, Any]]
    """Each {"path", "bytes", "sha256"}."""
    versions: dict[str, str]
    seed: int
    decisions: list[Decision] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)
    """What the next stages need: ledger, architecture, template, parity."""
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    """Largest resident memory of the stage and all its processes, sampled."""

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, default=str) + "\n"


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a whole artifact, or None where there is none. UserError INPUT-009 where it is another file."""
    path = directory / MANIFEST
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text("utf-8"))
        data["decisions"] = [Decision(**entry) for entry in data["decisions"]]
        return Manifest(**data)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise refuse("INPUT-009", path=str(path), reason=reason) from error


def is_whole(directory: Path, manifest: Manifest) -> bool:
    """Whether every output the manifest lists is there with its size. Contents are not read."""
    for entry in manifest.outputs:
        path = directory / entry["path"]
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return False
    return True


def list_outputs(directory: Path) -> list[dict[str, Any]]:
    """Name, size and sha256 of every file below ``directory``, hidden ones (resume state) left out."""
    from easyllm.core.digest import of_file

    rows = []
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        if path.is_file() and not any(part.startswith(".") for part in name.parts[:1]):
            rows.append({"path": str(name), "bytes": path.stat().st_size, "sha256": of_file(path)})
    return rows


def publish(partial: Path, final: Path, manifest: Manifest) -> None:
    """Make ``partial`` become ``final``. Top-level hidden entries, a stage's resume state, are dropped first."""
    for entry in partial.iterdir():
        if entry.name.startswith("."):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    write_whole(partial / MANIFEST, manifest.as_json())
    sync_tree(partial)
    old = final.with_name(final.name + ".old")
    if final.exists():
        if old.exists():
            shutil.rmtree(old)
        os.rename(final, old)
    os.rename(partial, final)
    sync_directory(final.parent)
    if old.exists():
        shutil.rmtree(old)


def recover(final: Path) -> None:
    """Finish or undo a publication that a kill cut between its two renames."""
    old = final.with_name(final.name + ".old")
    if old.exists() and not final.exists():
        os.rename(old, final)
    elif old.exists():
        shutil.rmtree(old)


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` beside ``path``, fsync and rename: readers see the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_directory(path.parent)


def sync_tree(directory: Path) -> None:
    """fsync every file and folder below ``directory``, so that a rename after it is safe."""
    for path in [*directory.rglob("*"), directory]:
        sync_directory(path)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
