"""sft2ift: rows of any form become rows of one, with some of them held out; a folder that finetune can be given."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Manifest, list_outputs, publish, read_manifest
from easyllm.core.digest import of_value
from easyllm.core.errors import UserError, refuse
from easyllm.core.messages import say
from easyllm.core.progress import progress
from easyllm.core.workplace import full_disk_is_the_users, locked, versions, writable
from easyllm.instruct.ift.example import Example
from easyllm.instruct.ift.sources import STAGE, Faults, Source, open_source, read_examples, size_of
from easyllm.instruct.ift.split import Smallest, Split, by_share
from easyllm.instruct.ift.write import RowsFile

KB = 1000


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    sources: tuple[Path, ...]
    out: Path
    write: str = "alpaca"
    """alpaca, messages, sharegpt or self-instruct."""
    file_as: str = "jsonl"
    """jsonl or parquet."""
    held_out: str = "0"
    """Rows to hold out (100), or a share of the instructions (0.05, 5%)."""
    seed: int = 1234


def sft2ift(asked: Asked) -> dict[str, Any]:
    """Write ``asked.out`` whole, as an artifact of rows; what is told of it.

    Raises UserError: IFT-001 to IFT-012, those of the files that are read, RUN-002 where nothing can be written.
    """
    count, share = held_out_of(asked.held_out)
    sources = [open_source(path) for path in asked.sources]
    _require_place(asked.out, sources)
    out = asked.out.resolve()
    partial = out.with_name(out.name + ".partial")
    started = datetime.now(UTC)
    with full_disk_is_the_users(STAGE, asked.out), _workplace(partial):
        passes = 2 if count else 1
        with progress(STAGE, passes * size_of(sources) // KB, "kB") as bar:
            read = _in_kilobytes(bar.advance)
            split = _smallest(sources, count, asked.seed, read) if count else by_share(share, asked.seed)
            told = _write(asked, sources, split, partial, read)
        _require_both(asked, told)
        manifest = _manifest(asked, sources, told, partial, started)
        publish(partial, out, manifest)
    return {"out": str(asked.out), **told, "digest": manifest.digest}


def text_of(told: dict[str, Any]) -> str:
    """The same for a person."""
    lines = [say("ift_rows", rows=told["rows"], path=Path(told["out"]) / told["files"]["train"][0])]
    if told["held_out"]:
        held_out = Path(told["out"]) / told["files"]["held_out"][0]
        lines.append(say("ift_held_out", rows=told["held_out"], path=held_out))
    if told["left_out"]:
        keys = ", ".join(f"{key} ({rows:,})" for key, rows in told["left_out"].items())
        lines.append(say("ift_left_out", keys=keys))
    return "\n".join(lines) + "\n"


def held_out_of(asked: str) -> tuple[int, float]:
    """(rows, share) to hold out, one of them 0. Raises UserError IFT-008."""
    try:
        if asked.isdecimal():
            return int(asked), 0.0
        share = float(asked.removesuffix("%")) / (100 if asked.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise refuse("IFT-008", stage=STAGE, key="--held-out", asked=asked)
    return 0, share


def _smallest(sources: Sequence[Source], count: int, seed: int, read: Callable[[int], Any]) -> Split:
    """The split for so many rows; the sources are read once for it."""
    found, faults = Smallest(count, seed), Faults()
    for example in read_examples(sources, faults, read):
        found.add(example.instruction)
    return found.split()


def _write(
    asked: Asked, sources: Sequence[Source], split: Split, folder: Path, read: Callable[[int], Any]
) -> dict[str, Any]:
    faults = Faults()
    names = {part: f"{part}.{asked.file_as}" for part in ("rows", "heldout")}
    with (
        RowsFile(folder / names["rows"], asked.write) as train,
        RowsFile(folder / names["heldout"], asked.write) as held_out,
    ):
        for example in read_examples(sources, faults, read):
            _add(held_out if split.holds_out(example.instruction) else train, example, faults)
        faults.refuse()
    if not held_out.rows:
        (folder / names["heldout"]).unlink()
    return {
        "rows": train.rows,
        "held_out": held_out.rows,
        "files": {"train": [names["rows"]], "held_out": [names["heldout"]] if held_out.rows else []},
        "left_out": dict(sorted((Counter(train.left_out) + held_out.left_out).items())),
    }


def _add(file: RowsFile, example: Example, faults: Faults) -> None:
    try:
        file.add(example)
    except UserError as error:
        faults.add(error)


def _require_both(asked: Asked, told: dict[str, Any]) -> None:
    rows = told["rows"] + told["held_out"]
    if not rows:
        raise refuse("IFT-010", stage=STAGE, sources=", ".join(map(str, asked.sources)))
    if not told["rows"] or (asked.held_out != "0" and not told["held_out"]):
        raise refuse(
            "IFT-009", stage=STAGE, key="--held-out", asked=asked.held_out, rows=rows, held_out=told["held_out"]
        )


def _require_place(out: Path, sources: Sequence[Source]) -> None:
    """A folder of a person's is never written over, only what sft2ift wrote itself, and never while it is read."""
    if problems := writable(out):
        raise UserError(*problems)
    manifest = read_manifest(out) if out.is_dir() else None
    own = manifest is not None and manifest.stage == STAGE
    is_read = any(out.resolve() in file.resolve().parents for source in sources for file in source.files)
    if out.exists() and (is_read or not own) and not (out.is_dir() and not any(out.iterdir())):
        raise refuse("IFT-011", stage=STAGE, key="--out", path=str(out))


@contextmanager
def _workplace(partial: Path) -> Iterator[None]:
    """An empty folder that nobody else writes to; gone again where the work does not end."""
    with locked(partial):
        for entry in partial.iterdir():  # what a kill left
            if entry.name != ".lock":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            yield
        finally:
            if partial.is_dir():
                shutil.rmtree(partial)


def _in_kilobytes(advance: Callable[[int], Any]) -> Callable[[int], Any]:
    """Takes bytes and tells whole kilobytes."""
    left = 0

    def read(amount: int) -> None:
        nonlocal left
        whole, left = divmod(left + amount, KB)
        if whole:
            advance(whole)

    return read


def _manifest(
    asked: Asked, sources: Sequence[Source], told: dict[str, Any], folder: Path, started: datetime
) -> Manifest:
    outputs, ended = list_outputs(folder), datetime.now(UTC)
    config = {"write": asked.write, "as": asked.file_as, "held_out": asked.held_out}
    reviews = {str(source.path): source.reviewed.record() for source in sources if source.reviewed}
    return Manifest(
        kind="rows",
        stage=STAGE,
        recipe=asked.out.resolve().name,
        fingerprint=of_value([STAGE, config, asked.seed, [source.digest for source in sources]]),
        digest=of_value([[entry["path"], entry["sha256"]] for entry in outputs]),
        config=config,
        inputs={
            f"source {number}": {"ref": str(source.path), "path": str(source.path.resolve()), "digest": source.digest}
            for number, source in enumerate(sources, 1)
        },
        outputs=outputs,
        versions=versions(),
        seed=asked.seed,
        metrics={"rows": told["rows"], "held_out": told["held_out"]},
        records={"files": told["files"], "left_out": told["left_out"], **({"reviews": reviews} if reviews else {})},
        started=started.isoformat(timespec="seconds"),
        ended=ended.isoformat(timespec="seconds"),
        seconds=(ended - started).total_seconds(),
    )
