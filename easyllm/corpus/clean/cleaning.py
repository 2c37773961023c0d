"""One cleaning, whole: which documents, which blocks, cut into which tasks; on disk it is cleaning.json."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from easyllm.core.artifact import write_whole
from easyllm.core.rows import Cut
from easyllm.corpus import pieces
from easyllm.corpus.clean.config import CleanConfig
from easyllm.corpus.documents import Span

TASK_BYTES = 1 << 24
"""Of text, as it stands in the files, unpacked: what a kill costs at the most, in each pass."""
MOST_TASKS = 400
"""Finding duplicates opens a file of every task at once; beyond this the tasks grow. A process may have 1,024 open."""
FILE = "cleaning.json"


@dataclass(frozen=True)
class Task:
    """Documents that one worker reads one after the other; all of one source."""

    source: int
    """Index into the sources of the corpus."""
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Cleaning:
    """What every worker must know, here or on another machine."""

    directory: Path
    """Where hashes, counts and the logs of datatrove are kept."""
    kept: Path
    """Where the cleaned documents go: a file of JSON lines for each task that has some left."""
    config: CleanConfig
    files: tuple[Path, ...]
    text_key: str
    tasks: tuple[Task, ...]


def home_of(out: Path) -> Path:
    """Where a run of the stage keeps its cleaning; another size of the tasks makes another one."""
    return out / f".clean-{TASK_BYTES}-{MOST_TASKS}"


def logs_of(cleaning: Cleaning, name: str) -> Path:
    """Where datatrove keeps what a pass has completed, its statistics and its log."""
    return cleaning.directory / "logs" / name


def tasks_of(files: Sequence[Path], text_key: str, source_of: Sequence[int]) -> tuple[Task, ...]:
    """Tasks that depend on the files alone, so that the result is the same whatever the number of workers.

    A packed file is one task: it cannot be entered in the middle.
    """
    least = max(TASK_BYTES, sum(path.stat().st_size for path in files) // MOST_TASKS)
    found: list[Task] = []
    spans: list[Span] = []
    weight = 0
    for index in range(len(files)):
        for span, text_bytes in _spans(index, files[index], text_key):
            if spans and (weight + text_bytes > least or source_of[spans[0].file] != source_of[index]):
                found.append(Task(source_of[spans[0].file], tuple(spans)))
                spans, weight = [], 0
            spans.append(span)
            weight += text_bytes
    return (*found, Task(source_of[spans[0].file], tuple(spans)))


def _spans(index: int, path: Path, text_key: str) -> Iterator[tuple[Span, int]]:
    if path.suffix in (".gz", ".zst"):
        yield Span(index), 4 * path.stat().st_size
        return
    for span, text_bytes, _ in pieces.spans_of(index, path, text_key):
        yield span, text_bytes


def write_cleaning(cleaning: Cleaning) -> None:
    """cleaning.json in its directory, paths as they are seen by all machines that share the disk."""
    data = {
        "kept": str(cleaning.kept.absolute()),
        "config": cleaning.config.model_dump(mode="json"),
        "files": [str(path.absolute()) for path in cleaning.files],
        "text_key": cleaning.text_key,
        "tasks": [asdict(task) for task in cleaning.tasks],
    }
    write_whole(cleaning.directory / FILE, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def read_cleaning(directory: Path) -> Cleaning:
    """What ``write_cleaning`` left there."""
    data = json.loads((directory / FILE).read_text("utf-8"))
    return Cleaning(
        directory=directory,
        kept=Path(data["kept"]),
        config=CleanConfig.model_validate(data["config"]),
        files=tuple(map(Path, data["files"])),
        text_key=data["text_key"],
        tasks=tuple(Task(row["source"], tuple(map(_span, row["spans"]))) for row in data["tasks"]),
    )


def _span(row: dict[str, object]) -> Span:
    cut, groups = row["cut"], row["groups"]
    return Span(
        int(str(row["file"])),
        Cut(**cut) if isinstance(cut, dict) else None,
        tuple(groups) if isinstance(groups, list) else None,  # type: ignore[arg-type]
    )
