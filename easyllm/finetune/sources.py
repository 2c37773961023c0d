"""The rows of every entry of finetune.data, each with how often an epoch sees it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from easyllm.core.conversations import Conversation, Share, read_conversations
from easyllm.core.rows import few
from easyllm.core.stage import Job
from easyllm.finetune.config import FinetuneConfig, Weighted


def _entries(job: Job[FinetuneConfig]) -> list[tuple[str, float]]:
    """(input, weight): those without a weight are one input together."""
    weighted = [
        (f"data.{index}.rows", entry.weight)
        for index, entry in enumerate(job.config.data)
        if isinstance(entry, Weighted)
    ]
    return [("data", 1.0)] * ("data" in job.inputs) + weighted


def data_files(job: Job[FinetuneConfig]) -> list[Path]:
    return [file for role, _ in _entries(job) for file in job.inputs[role].files]


def readable(job: Job[FinetuneConfig]) -> bool:
    """Whether a check can read the rows now: they are there, and not too many."""
    there = all(job.ready(role) for role, _ in _entries(job))
    return there and few(data_files(job))


def data_rows(job: Job[FinetuneConfig]) -> Iterator[Conversation]:
    """Every row. Raises UserError as ``read_conversations`` does."""
    for role, weight in _entries(job):
        names = _names(job.inputs[role].files)
        for file in job.inputs[role].files:
            # One share a file, so that a weight holds within each of them and the audit counts each.
            yield from read_conversations([file], job.stage, Share(f"{role}: {names[file]}", weight))


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """What each file is called: its name, after as many of its folders as tell it from the others."""
    found = Counter(name for file in set(files) for name in _tails(file))
    return {file: next((name for name in _tails(file) if found[name] == 1), file.as_posix()) for file in files}


def _tails(file: Path) -> Iterator[str]:
    """rows.jsonl, one/rows.jsonl, data/one/rows.jsonl, ..."""
    return (Path(*file.parts[-count:]).as_posix() for count in range(1, len(file.parts) + 1))
