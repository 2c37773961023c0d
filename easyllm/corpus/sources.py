"""The sources of the corpus, the parts of its split, and the files that their tokens go to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.stage import Job
from easyllm.corpus.config import CorpusConfig, Split

PREFIX = "tokens"


@dataclass(frozen=True)
class Source:
    """Files that are drawn from with one weight."""

    name: str | None
    """None: the only one, which the recipe gives as a plain list."""
    weight: float
    files: tuple[Path, ...]


def sources_of(job: Job[CorpusConfig]) -> list[Source]:
    """In the order of the recipe."""
    if job.config.plain:
        return [Source(None, 1.0, job.inputs["input"].files)]
    return [
        Source(entry.name, entry.weight, job.inputs[f"input.{n}.source"].files)
        for n, entry in enumerate(job.config.weighted)
    ]


def files_of(sources: Sequence[Source]) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    """All files, and the source of each."""
    files = tuple(path for source in sources for path in source.files)
    return files, tuple(n for n, source in enumerate(sources) for _ in source.files)


def parts_of(split: Split | None) -> dict[str, float]:
    """The share of the documents that each part of the split gets; parts that get none are left out."""
    if split is None:
        return {"train": 1.0}
    asked = {"train": split.train, "valid": split.valid, "test": split.test}
    return {part: share / sum(asked.values()) for part, share in asked.items() if share}


def prefixes_of(sources: Sequence[Source], split: Split | None) -> list[list[str]]:
    """By source and part: tokens, tokens-NAME, tokens-train or tokens-NAME-train."""
    return [
        ["-".join([PREFIX, *([source.name] if source.name else []), *([part] if split else [])])
         for part in parts_of(split)]
        for source in sources
    ]  # fmt: skip


def record_of(sources: Sequence[Source], split: Split | None, totals: Sequence[Any], dtype: str) -> dict[str, Any]:
    """What pretraining reads: for each source its weight and, by part, where its tokens lie and how many there are.

    ``documents`` and ``tokens`` are those of the training parts together.
    """
    parts, prefixes = list(parts_of(split)), prefixes_of(sources, split)
    rows = [
        {
            "name": source.name,
            "weight": source.weight,
            **dict.fromkeys(("train", "valid", "test")),
            **dict(zip(parts, prefixes[n], strict=True)),
            "documents": dict(zip(parts, totals[n].documents, strict=True)),
            "tokens": dict(zip(parts, totals[n].tokens, strict=True)),
        }
        for n, source in enumerate(sources)
    ]
    return {
        "documents": sum(total.documents[0] for total in totals),
        "tokens": sum(total.tokens[0] for total in totals),
        "dtype": dtype,
        "sources": rows,
    }
