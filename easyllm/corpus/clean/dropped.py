"""What the blocks dropped, counted and with a few examples; written task by task, read when all is done."""

import json
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import nsmallest
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole

EXAMPLES = 5
EXAMPLE_CHARACTERS = 300


class Dropped:
    """Given to a block as its exclusion writer. A task that drops nothing leaves no file."""

    def __init__(self, home: Path, block: str) -> None:
        self._folder = home / "dropped" / block
        self._start()

    def _start(self) -> None:
        self._rank = 0
        self._reasons: Counter[str] = Counter()
        self._examples: list[list[str]] = []

    def __enter__(self) -> "Dropped":
        self._start()
        return self

    def write(self, document: Any, rank: int = 0) -> None:
        """Count one document; its example is kept if its hash is among the smallest: a draw that needs no order."""
        self._rank = rank
        reason = document.metadata.get("filter_reason", "")
        self._reasons[reason] += 1
        mark = blake2b(document.text.encode(), digest_size=8).hexdigest()
        begins = document.text[:EXAMPLE_CHARACTERS]
        self._examples = _draw([*self._examples, [mark, document.id, reason, begins]])

    def __exit__(self, *error: Any) -> None:
        if error[0] is None and self._reasons:
            self._folder.mkdir(parents=True, exist_ok=True)
            data = {"reasons": self._reasons, "examples": self._examples}
            write_whole(self._folder / f"{self._rank:05d}.json", json.dumps(data, ensure_ascii=False))


def _draw(examples: list[list[str]]) -> list[list[str]]:
    """Each text once, by its hash."""
    by_hash = {example[0]: example for example in sorted(examples, reverse=True)}
    return nsmallest(EXAMPLES, by_hash.values())


def note_read(home: Path, rank: int, documents: int, empty: int) -> None:
    """How much a task read."""
    (home / "read").mkdir(parents=True, exist_ok=True)
    write_whole(home / "read" / f"{rank:05d}.json", json.dumps({"documents": documents, "empty": empty}))


@dataclass
class BlockDropped:
    """What one block dropped from the corpus."""

    block: str
    sources: list[int]
    """Documents dropped of each source."""
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[list[str]] = field(default_factory=list)
    """[hash, id, reason, beginning of the text]"""

    @property
    def documents(self) -> int:
        return sum(self.sources)


@dataclass
class Cleaned:
    """What the cleaning made of the corpus."""

    read: list[int]
    """Documents of each source that are not empty."""
    empty: int
    blocks: list[BlockDropped]

    def kept(self, source: int) -> int:
        return self.read[source] - sum(block.sources[source] for block in self.blocks)


def read_dropped(home: Path, blocks: list[str], source_of_task: list[int]) -> Cleaned:
    """Everything that the tasks noted."""
    sources = max(source_of_task) + 1
    cleaned = Cleaned([0] * sources, 0, [])
    for rank, source in enumerate(source_of_task):
        row = json.loads((home / "read" / f"{rank:05d}.json").read_text("utf-8"))
        cleaned.read[source] += row["documents"]
        cleaned.empty += row["empty"]
    for name in blocks:
        block = BlockDropped(name, [0] * sources)
        for path in sorted((home / "dropped" / name).glob("*.json")):
            row = json.loads(path.read_text("utf-8"))
            block.sources[source_of_task[int(path.stem)]] += sum(row["reasons"].values())
            block.reasons += Counter(row["reasons"])
            block.examples = _draw([*block.examples, *row["examples"]])
        cleaned.blocks.append(block)
    return cleaned


def dropped_by_block(cleaned: Cleaned) -> dict[str, int]:
    """For the manifest."""
    return {block.block: block.documents for block in cleaned.blocks}
