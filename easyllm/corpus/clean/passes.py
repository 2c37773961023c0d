"""The blocks put together: passes over the documents, each a pipeline of datatrove that any executor of it can run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig

from easyllm.core.rows import Rows
from easyllm.corpus.clean.cleaning import Cleaning
from easyllm.corpus.clean.config import NearDuplicates
from easyllm.corpus.clean.dropped import Dropped, note_read
from easyllm.corpus.clean.filters import LanguageFilter, LengthFilter, repetition_filter
from easyllm.corpus.clean.words import Words
from easyllm.corpus.documents import STAGE, of_span

HASHES = HashConfig(precision=64, hash_fc="sha1")
"""Python's own; xxhash would be one more package, and hashing is not what takes the time."""
SUFFIX = ".jsonl.zst"


@dataclass(frozen=True)
class Pass:
    """One pipeline, and how many tasks it is made of."""

    name: str
    blocks: list[PipelineStep]
    tasks: int


def passes(cleaning: Cleaning) -> list[Pass]:
    """In the order they must run; each needs all tasks of the one before.

    What looks at one document at a time comes first: it leaves less for the duplicates to be looked for in.
    """
    config, count, home = cleaning.config, len(cleaning.tasks), cleaning.directory
    filters = _filters(cleaning)
    last = JsonlWriter(str(cleaning.kept), compression="zstd")
    if not (config.exact_duplicates or config.near_duplicates):
        return [Pass("filter", [Documents(cleaning), *filters, last], count)]
    made, between = [], home / "filtered"
    if filters:
        keep = JsonlWriter(str(between), compression="zstd")
        made.append(Pass("filter", [Documents(cleaning), *filters, keep], count))

    def read() -> PipelineStep:
        return Filtered(between) if filters else Documents(cleaning)

    drop: list[PipelineStep] = []
    if config.exact_duplicates:
        made += _exact(home / "exact", read, count)
        drop.append(_drop_exact(home / "exact", Dropped(home, "exact_duplicates")))
    if config.near_duplicates:
        before = [_drop_exact(home / "exact")] if drop else []
        made += _near(home / "near", config.near_duplicates, [read(), *before], count)
        drop.append(MinhashDedupFilter(str(home / "near" / "remove"), Dropped(home, "near_duplicates")))
    return [*made, Pass("write", [read(), *drop, last], count)]


def _filters(cleaning: Cleaning) -> list[PipelineStep]:
    config, home = cleaning.config, cleaning.directory
    found: list[PipelineStep] = []
    if config.length:
        found.append(LengthFilter(config.length, Dropped(home, "length")))
    if config.language:
        found.append(LanguageFilter(config.language, Dropped(home, "language")))
    if config.repetition:
        found.append(repetition_filter(config.repetition, Dropped(home, "repetition")))
    return found


def _text(doc: Document) -> str:
    return str(doc.text)


def _earlier_first(doc: Document) -> int:
    """Of equal documents the one of the highest priority stays in; within a task it is the first one anyway."""
    return 65_535 - int(doc.id.partition("/")[0])


EXACT = ExactDedupConfig(content_getter=_text, document_priority=_earlier_first, hash_config=HASHES)


def _exact(home: Path, read: Any, count: int) -> Iterable[Pass]:
    yield Pass("exact-hashes", [read(), ExactDedupSignature(str(home / "hashes"), EXACT)], count)
    yield Pass("exact-find", [ExactFindDedups(str(home / "hashes"), str(home / "found"), EXACT)], 1)


def _drop_exact(home: Path, dropped: Dropped | None = None) -> PipelineStep:
    return ExactDedupFilter(str(home / "found"), EXACT, dropped)


def _near(home: Path, asked: NearDuplicates, read: list[PipelineStep], count: int) -> Iterable[Pass]:
    measure = MinhashConfig(
        n_grams=asked.ngram,
        num_buckets=asked.buckets,
        hashes_per_bucket=asked.hashes_per_bucket,
        hash_config=HASHES,
    )
    hashes, pairs = str(home / "hashes"), str(home / "pairs")
    yield Pass("near-hashes", [*read, MinhashDedupSignature(hashes, measure, language=Words())], count)
    yield Pass("near-buckets", [MinhashDedupBuckets(hashes, pairs, config=measure)], asked.buckets)
    yield Pass("near-clusters", [MinhashDedupCluster(pairs, str(home / "remove"), config=measure)], 1)


class Documents(PipelineStep):  # type: ignore[misc]  # datatrove is untyped
    """Reads the documents of a task, whatever they are kept in, as the corpus stage does; empty ones are left out."""

    type = "📖 - READER"
    name = "📚 Documents"

    def __init__(self, cleaning: Cleaning) -> None:
        super().__init__()
        self.cleaning = cleaning

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        read = empty = 0
        cleaning = self.cleaning
        for span in cleaning.tasks[rank].spans:
            for document in of_span(span, cleaning.files, cleaning.text_key):
                if document.empty:
                    empty += 1
                else:
                    self.stat_update("documents")
                    yield Document(document.text, f"{rank:05d}/{read}")
                    read += 1
        note_read(cleaning.directory, rank, read, empty)


class Filtered(PipelineStep):  # type: ignore[misc]  # datatrove is untyped
    """Reads what an earlier pass wrote, each task its own file; datatrove's reader would deal the files out anew."""

    type = "📖 - READER"
    name = "📚 Filtered documents"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        path = kept_file(self.folder, rank)
        if path.is_file():
            for _, row in Rows(path, STAGE):
                self.stat_update("documents")
                yield Document(row["text"], row["id"], metadata=row.get("metadata", {}))


def kept_file(folder: Path, rank: int) -> Path:
    """Where a task's documents are; there is none where nothing was left."""
    return folder / f"{rank:05d}{SUFFIX}"
