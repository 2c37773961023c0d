"""What the corpus holds for training, for the loss that is watched and for the loss at the end. No torch, no numpy."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Decision
from easyllm.core.messages import say
from easyllm.core.stage import Job
from easyllm.pretrain.config import PretrainConfig, Validation

PARTS = ("train", "valid", "test")
LISTS = (*PARTS, "replay")
SHARE = 0.01
"""Of the documents, held out where the corpus holds back none itself and validation is asked for."""


@dataclass(frozen=True)
class Source:
    """One indexed dataset, and how much is drawn from it."""

    name: str | None
    """None: the corpus' only one."""
    prefix: Path
    """Of its .bin and .idx."""
    weight: float
    """In relation to the other sources of the part."""
    documents: int
    tokens: int


@dataclass(frozen=True)
class Blends:
    """The parts of a corpus, each a list of sources in one order. A part that the corpus does not have is empty."""

    train: tuple[Source, ...]
    """With the sources of a replay behind the corpus' own."""
    valid: tuple[Source, ...] = ()
    test: tuple[Source, ...] = ()
    replay: tuple[Source, ...] = ()
    """What the corpus of a replay holds back for validation."""

    @classmethod
    def of_corpus(cls, directory: Path, record: Mapping[str, Any]) -> "Blends":
        """From the record ``tokens`` of the corpus' manifest."""
        return cls(**{part: tuple(_sources(directory, record, part)) for part in PARTS})

    @classmethod
    def from_record(cls, record: Mapping[str, Any], base: Path) -> "Blends":
        """The inverse of ``as_record``."""
        return cls(**{part: tuple(_placed(row, base) for row in record[part]) for part in LISTS})

    def as_record(self, base: Path) -> dict[str, Any]:
        """Plain values; paths start at ``base``."""
        return {
            part: [asdict(source) | {"prefix": os.path.relpath(source.prefix, base)} for source in getattr(self, part)]
            for part in LISTS
        }

    def with_replay(self, other: "Blends", share: float) -> "Blends":
        """``share`` of the training samples from ``other``, the rest as before."""
        own = _shared_out([replace(s, name=s.name or "corpus") for s in self.train], 1 - share)
        theirs = [replace(s, name=f"replay.{s.name}" if s.name else "replay") for s in other.train]
        return replace(self, train=(*own, *_shared_out(theirs, share)), replay=other.valid)

    def sources(self) -> list[Source]:
        """All that is read."""
        return [source for part in LISTS for source in getattr(self, part)]


def held_out_share(asked: Validation | None, blends: Blends) -> float | None:
    """The share of the documents that validation takes from training; None where it takes none."""
    if asked is None or blends.valid:
        return None
    return SHARE if asked.share is None else asked.share


def blends_of(job: Job[PretrainConfig]) -> Blends | None:
    """None before the corpus, and that of a replay, has run."""
    own, replay = _of_input(job, "corpus"), job.config.replay
    if own is None or replay is None:
        return own
    other = _of_input(job, "replay.corpus")
    return own.with_replay(other, replay.share) if other else None


def _of_input(job: Job[PretrainConfig], role: str) -> Blends | None:
    found = job.inputs.get(role)
    if found is None or found.manifest is None or found.path is None:
        return None
    return Blends.of_corpus(found.path, found.manifest.records["tokens"])


def _shared_out(sources: list[Source], share: float) -> list[Source]:
    """Their weights in the same relation, with the sum ``share``."""
    whole = sum(source.weight for source in sources)
    return [replace(source, weight=source.weight / whole * share) for source in sources]


def epochs_by_source(blends: Blends, tokens: int) -> dict[str, float]:
    """How often each source of a blend is read when so many tokens are trained on."""
    whole = sum(source.weight for source in blends.train)
    return {
        f"epochs of {source.name}": round(tokens * source.weight / whole / source.tokens, 2)
        for source in blends.train
        if source.name is not None and source.tokens
    }


def split_decision(asked: Validation | None, blends: Blends | None) -> Decision:
    """What is for training and what is not."""
    if asked is None:
        return Decision("corpus split", say("all_for_training"), say("why_no_split"))
    why = say("why_validation", samples=asked.samples, every=asked.every_steps)
    if blends is None and asked.share is None:
        return Decision("corpus split", say("after_corpus"), why)
    if blends is not None and blends.valid:
        counts = {part: sum(source.documents for source in getattr(blends, part)) for part in PARTS}
        return Decision("corpus split", say("split_corpus", **counts), why)
    return Decision("corpus split", say("split_as", share=f"{asked.share or SHARE:.4%}"), why)


def samples_of(source: Source, part: tuple[Source, ...], samples: int) -> int:
    """How many of ``samples`` come from ``source``, rounded up as Megatron does."""
    return math.ceil(samples * source.weight / sum(other.weight for other in part))


def _placed(row: Mapping[str, Any], base: Path) -> Source:
    return Source(**{**row, "prefix": Path(os.path.normpath(base / row["prefix"]))})


def _sources(directory: Path, record: Mapping[str, Any], part: str) -> list[Source]:
    return [
        Source(row["name"], directory / row[part], row["weight"], row["documents"][part], row["tokens"][part])
        for row in record["sources"]
        if row[part]
    ]
