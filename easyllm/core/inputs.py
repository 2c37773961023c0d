"""What a stage's section may point at, and how a written reference becomes files on disk.

A config field says what it takes by its annotation::

    corpus: Annotated[str, Takes("artifact", "corpus")] = "corpus"      an earlier stage, or a directory
    base:   Annotated[str, Takes("model", "convert", "merge")] = ...    a stage, directory, .gguf, hf:, package:
    data:   Annotated[list[str], Takes("files")]                        files, folders, globs, builtin:NAME
    rows:   Annotated[list[str], Takes("files", "rows")]                the same, and artifacts that hold rows
"""

import glob
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from easyllm.core.artifact import Manifest, read_manifest
from easyllm.core.digest import Digests, of_value
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.section import Section

NOT_CLEANED = ".not_cleaned.jsonl"
"""How a file of rows ends that no person has decided on."""

COLUMN_SUFFIXES = (".parquet", ".arrow")
ROW_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".txt", ".txt.gz", ".txt.zst")


class Takes:
    """Annotation of a config field: ``what`` it takes and, for artifacts and models, their ``kinds``.

    ``columns``: Parquet and Arrow files of a folder are taken too. ``foreign``: a directory that is no artifact is.
    ``shelf``: where ``builtin:NAME`` is looked up, as builtin data called shelf + NAME.
    ``part``: of an artifact of rows, which of them: those to train on, or those held out of it.
    """

    def __init__(
        self,
        what: Literal["artifact", "files", "model"],
        *kinds: str,
        columns: bool = False,
        foreign: bool = False,
        shelf: str = "",
        part: Literal["train", "held_out"] = "train",
    ) -> None:
        self.what = what
        self.kinds = kinds
        self.columns = columns
        self.foreign = foreign
        self.shelf = shelf
        self.part = part


@dataclass(frozen=True)
class Input:
    """One resolved reference of a section.

    ``path`` is the artifact's directory, the model's directory or its .gguf file; None for ``hf:`` and
    ``modelscope:`` ids and for a stage that has not run. ``files`` are the files of a "files" input.
    """

    role: str
    """The config field, dotted."""
    ref: str
    what: Literal["artifact", "files", "model"]
    path: Path | None = None
    files: tuple[Path, ...] = ()
    stage: str | None = None
    """The stage that makes it, when the reference names one."""
    manifest: Manifest | None = None
    """Its manifest, when it is an artifact that exists."""
    digest: str | None = None
    """Of its content; None while it does not exist."""


@dataclass(frozen=True)
class Place:
    """Where references are looked up."""

    recipe_dir: Path
    """Relative paths in a recipe start here."""
    run_dir: Path
    """Where this recipe's artifacts stand, one directory a stage."""
    cache_dir: Path
    """Things made once for all recipes: built-in data, dequantised models, digests."""
    stages: tuple[str, ...]
    """All stage names; a reference equal to one of them means its artifact."""
    present: tuple[str, ...]
    """The stages this recipe has a section for."""
    digests: Digests


def annotated(section: Section, parents: str = "") -> list[tuple[str, Any, Takes]]:
    """(dotted field, value, Takes) of every set field that points at something, nested sections and lists of them too.

    In a list that holds sections beside references, the references alone are the list's own value. In a mapping of
    names to references each is a field of its own.
    """
    found = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            found += annotated(value, f"{parents}{name}.")
        if isinstance(value, list):
            for index, entry in enumerate(value):
                found += annotated(entry, f"{parents}{name}.{index}.") if isinstance(entry, Section) else []
            value = [entry for entry in value if not isinstance(entry, Section)]
        for mark in info.metadata:
            if isinstance(mark, Takes) and isinstance(value, dict):
                found += [(f"{parents}{name}.{key}", entry, mark) for key, entry in value.items()]
            elif isinstance(mark, Takes) and value not in (None, [], ()):
                found.append((parents + name, value, mark))
    return found


def resolve(stage: str, section: Section, place: Place) -> dict[str, Input]:
    """Every reference of ``section``, by field. Raises UserError for what cannot be found."""
    problems: list[Problem] = []
    inputs: dict[str, Input] = {}
    for name, value, takes in annotated(section):
        try:
            inputs[name] = _resolve_one(stage, name, value, takes, place)
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)
    return inputs


def _resolve_one(stage: str, name: str, value: Any, takes: Takes, place: Place) -> Input:
    key = f"{stage}.{name}"
    if takes.what == "files":
        return _all_files(stage, key, name, [value] if isinstance(value, str) else list(value), takes, place)
    if value in place.stages:
        return _from_stage(stage, key, name, value, takes, place)
    if takes.what == "model" and value.partition(":")[0] in ("hf", "modelscope"):
        return Input(name, value, "model", digest=of_value(value))
    if takes.what == "model" and value.startswith("package:"):
        path = _gguf_of_package(stage, key, value.removeprefix("package:"))
        return Input(name, value, "model", path=path, digest=place.digests.of_file(path))
    path = _below(place.recipe_dir, value)
    if not path.exists():
        code = "BASE-001" if takes.what == "model" else "INPUT-001"
        raise UserError(problem(code, stage=stage, key=key, ref=value, path=str(path)))
    manifest = read_manifest(path) if path.is_dir() else None
    _right_kind(stage, key, value, manifest, takes)
    if takes.what == "artifact" and manifest is None and not (takes.foreign and path.is_dir()):
        raise UserError(problem("INPUT-003", stage=stage, key=key, ref=value, path=str(path)))
    return Input(name, value, takes.what, path=path, manifest=manifest, digest=content_digest(path, place.digests))


def _all_files(stage: str, key: str, name: str, refs: list[str], takes: Takes, place: Place) -> Input:
    """Files, folders and globs, and the rows of artifacts among them; not there while a stage has not made its own."""
    made = {ref: _from_stage(stage, key, name, ref, takes, place) for ref in refs if ref in place.stages}
    files: list[Path] = []
    found: list[Path] = []
    for ref in refs:
        source = made.get(ref)
        if source is None:
            found += (here := _files(stage, key, ref, place, takes))
            files += here
        elif source.manifest:
            files += rows_of(stage, key, source, takes)
    digests = [source.digest for source in made.values()] + ([place.digests.of_files(found)] if found else [])
    digest = None if None in digests else digests[0] if len(digests) == 1 else of_value(digests)
    first = next(iter(made.values()), Input(name, "", "files"))
    return Input(name, ", ".join(refs), "files", first.path, tuple(files), first.stage, first.manifest, digest)


def rows_of(stage: str, key: str, source: Input, takes: Takes) -> list[Path]:
    """The files of an artifact of rows that ``takes`` is after. INPUT-007 where it has none of them."""
    assert source.manifest is not None
    assert source.path is not None
    names = source.manifest.records["files"][takes.part]
    if not names:
        raise UserError(problem("INPUT-007", stage=stage, key=key, ref=source.ref))
    return [source.path / name for name in names]


def content_digest(path: Path, digests: Digests) -> str:
    """Digest of a file, an artifact (what its manifest says) or any other directory (names and contents)."""
    if path.is_file():
        return digests.of_file(path)
    manifest = read_manifest(path)
    if manifest:
        return manifest.digest
    return digests.of_files(sorted(f for f in path.rglob("*") if f.is_file()), root=path)


def _from_stage(stage: str, key: str, name: str, ref: str, takes: Takes, place: Place) -> Input:
    path = place.run_dir / ref
    manifest = read_manifest(path)
    if manifest is None and ref not in place.present:
        raise UserError(problem("INPUT-002", stage=stage, key=key, ref=ref, path=str(path)))
    _right_kind(stage, key, ref, manifest, takes)
    digest = manifest.digest if manifest else None
    return Input(name, ref, takes.what, path=path, stage=ref, manifest=manifest, digest=digest)


def _right_kind(stage: str, key: str, ref: str, manifest: Manifest | None, takes: Takes) -> None:
    if manifest and takes.kinds and manifest.kind not in takes.kinds:
        wanted = ", ".join(takes.kinds)
        raise UserError(problem("INPUT-004", stage=stage, key=key, ref=ref, kind=manifest.kind, wanted=wanted))


def written_path(text: str | Path) -> Path:
    """The path as written, ``~`` as the home it means. That of a user unknown here stays as it is, and is not found."""
    return Path(os.path.expanduser(text))  # Path.expanduser would raise a RuntimeError for it


def _below(root: Path, value: str) -> Path:
    path = written_path(value)
    return path if path.is_absolute() else root / path


def _files(stage: str, key: str, ref: str, place: Place, takes: Takes) -> list[Path]:
    """The files of one reference: a file, every row file of a folder (recursive), a glob, or ``builtin:NAME``."""
    if ref.startswith("builtin:"):
        from easyllm.recipes import builtin

        name = ref.removeprefix("builtin:")
        return [builtin.materialise(takes.shelf + name, place.cache_dir, stage, key)]
    path = _below(place.recipe_dir, ref)
    manifest = read_manifest(path) if path.is_dir() else None
    if manifest and manifest.kind == "rows" and "rows" in takes.kinds:
        return rows_of(stage, key, Input(key, ref, "files", path, manifest=manifest), takes)
    if path.is_dir():
        found = [f for f in sorted(path.rglob("*")) if f.is_file() and _holds_rows(f, takes)]
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(f) for f in glob.glob(str(path), recursive=True) if Path(f).is_file())
    if not found:
        raise UserError(problem("INPUT-001", stage=stage, key=key, ref=ref, path=str(path)))
    raw = [file for file in found if file.name.endswith(NOT_CLEANED)]
    if raw:
        raise UserError(problem("INPUT-008", stage=stage, key=key, file=raw[0], folder=str(raw[0].parent)))
    return found


DATASET_STATE = "state.json"
DATASET_NOTES = (DATASET_STATE, "dataset_info.json", "dataset_dict.json")
"""What Hugging Face datasets write beside their .arrow files when they are saved to disk."""


def _holds_rows(path: Path, takes: Takes) -> bool:
    """Whether a file of a folder is taken."""
    if not takes.columns:
        return path.name.endswith(ROW_SUFFIXES)
    if path.name in DATASET_NOTES:
        return not any(path.parent.glob("*/" + DATASET_STATE)) and not (path.parent / DATASET_STATE).is_file()
    if path.suffix == ".arrow" and (path.parent / DATASET_STATE).is_file():
        # Results of earlier work on a dataset lie beside it as cache-*.arrow; the dataset itself is what it lists.
        state = json.loads((path.parent / DATASET_STATE).read_text("utf-8"))
        return path.name in [entry["filename"] for entry in state.get("_data_files", [])]
    return path.name.endswith((*ROW_SUFFIXES, *COLUMN_SUFFIXES))


def _gguf_of_package(stage: str, key: str, package: str) -> Path:
    """The one .gguf file that an installed Python package carries."""
    from importlib import metadata

    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise UserError(problem("BASE-002", stage=stage, key=key, package=package)) from error
    found = [Path(str(f.locate())) for f in files if f.name.endswith(".gguf")]
    if len(found) != 1 or not found[0].is_file():
        raise UserError(problem("BASE-002", stage=stage, key=key, package=package))
    return found[0]
