"""Where rows come from: files, folders, what a stage has made, and what a review has accepted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Manifest, read_manifest
from easyllm.core.columns import ColumnRows
from easyllm.core.digest import of_file, of_value
from easyllm.core.errors import Problem, UserError, problem, refuse
from easyllm.core.freshness import digest_now
from easyllm.core.inputs import DATASET_NOTES, NOT_CLEANED
from easyllm.core.rows import Rows, plain_suffix
from easyllm.instruct.ift.example import Example, example_of
from easyllm.instruct.ift.read import examples_of
from easyllm.instruct.review.decisions import Gate, gate
from easyllm.instruct.review.folder import KEPT, Folder, find
from easyllm.instruct.review.log import Log

STAGE = "sft2ift"
SUFFIXES = (".jsonl", ".json", ".parquet")
"""What is read; the first two also as .gz and .zst."""

MOST_PROBLEMS = 20
"""So many faults of rows are told together."""


@dataclass(frozen=True)
class Source:
    """One of the things that were named, as files to read."""

    path: Path
    """As it was named; of an artifact, its directory."""
    files: tuple[Path, ...]
    digest: str
    reviewed: Gate | None = None
    """What a review let through; the files are then its rows and its log."""


class Faults:
    """What is wrong with rows, told together: raises UserError at the end, or when there is enough to tell."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, error: UserError) -> None:
        self._found += error.problems
        if len(self._found) >= MOST_PROBLEMS:
            self.refuse()

    def refuse(self) -> None:
        if self._found:
            raise UserError(*self._found[:MOST_PROBLEMS])


def open_source(path: Path) -> Source:
    """What stands at ``path``.

    Raises UserError: IFT-012 nothing, IFT-004 nothing that can be read, IFT-005 an artifact of another kind, IFT-006
    rows that nobody has decided on, IFT-007 decisions since an artifact was made; and those of ``easyllm review``.
    """
    if path.is_file():
        if path.name.endswith(NOT_CLEANED):
            return _reviewed(find(path), path)
        if not _readable(path):
            raise refuse("IFT-004", stage=STAGE, file=path, suffixes=", ".join(SUFFIXES))
        return Source(path, (path,), of_file(path))
    for place in (path, path / "instruct"):
        manifest = read_manifest(place) if place.is_dir() else None
        if manifest:
            return _artifact(place, manifest)
    if any(True for folder in _review_folders(path) for _ in folder.glob("*" + NOT_CLEANED)):
        return _reviewed(find(path), path)
    if not path.exists():
        raise refuse("IFT-012", stage=STAGE, path=str(path))
    files = tuple(f for f in sorted(path.rglob("*")) if f.is_file() and _readable(f) and not _beside_rows(f))
    if not files:
        raise refuse("IFT-004", stage=STAGE, file=path, suffixes=", ".join(SUFFIXES))
    for file in files:
        if file.name.endswith(NOT_CLEANED):
            raise refuse("INPUT-008", stage=STAGE, key="SOURCE", file=file, folder=str(file.parent))
    return Source(path, files, of_value([[str(f.relative_to(path)), of_file(f)] for f in files]))


def read_examples(sources: Sequence[Source], faults: Faults, read: Callable[[int], Any]) -> Iterator[Example]:
    """Every example of ``sources``; ``read`` is told of the bytes that were read since it was told last.

    What is wrong with a row goes to ``faults``, and what cannot be read any further is raised with it.
    """
    for source in sources:
        if source.reviewed:
            yield from map(example_of, source.reviewed.accepted)
            read(sum(file.stat().st_size for file in source.files))
            continue
        for file in source.files:
            yield from _examples(file, faults, read)
    faults.refuse()


def size_of(sources: Sequence[Source]) -> int:
    """Bytes that ``read_examples`` tells of, in all."""
    return sum(file.stat().st_size for source in sources for file in source.files)


def _examples(file: Path, faults: Faults, read: Callable[[int], Any]) -> Iterator[Example]:
    rows = ColumnRows(file, STAGE) if file.suffix == ".parquet" else Rows(file, STAGE)
    told = 0
    for line, row in _lines(rows, faults):
        try:
            yield from examples_of(row, STAGE, file, line)
        except UserError as error:
            faults.add(error)
        read(rows.position - told)
        told = rows.position
    read(file.stat().st_size - told)


def _lines(rows: ColumnRows | Rows, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows; where the file cannot be read on, what was wrong before is told with it."""
    try:
        yield from rows
    except UserError as error:
        faults.add(error)
        faults.refuse()


def _readable(path: Path) -> bool:
    return plain_suffix(path) in SUFFIXES[:2] or path.suffix == ".parquet"


def _beside_rows(path: Path) -> bool:
    """Whether a file of a folder is no data: hidden, or a note of Hugging Face datasets about theirs."""
    return path.name.startswith(".") or path.name in (*DATASET_NOTES, "dataset_infos.json")


def _artifact(path: Path, manifest: Manifest) -> Source:
    """The rows to train on of an artifact; those it holds out stay out."""
    if manifest.kind != "rows":
        raise refuse("IFT-005", stage=STAGE, file=path, kind=manifest.kind)
    for name, digest in manifest.records.get("watched", {}).items():
        if digest_now(path.parent / name) != digest:
            raise refuse("IFT-007", stage=STAGE, file=path, changed=name)
    files = tuple(path / name for name in manifest.records["files"]["train"])
    return Source(path, files, manifest.digest)


def _review_folders(path: Path) -> list[Path]:
    return [path, path / KEPT, path.with_name(path.name + ".kept")]


def _reviewed(folder: Folder, path: Path) -> Source:
    found = gate(folder.rows(), Log(folder.log_file).read())
    if not found.whole:
        numbers = {"undecided": len(found.undecided), "conflicts": len(found.conflicts), "rows": found.numbers["rows"]}
        raise UserError(problem("IFT-006", stage=STAGE, file=folder.rows_file, folder=str(path), **numbers))
    files = tuple(file for file in (folder.rows_file, folder.log_file) if file.is_file())
    return Source(path, files, of_value([of_file(file) for file in files]), found)
