"""All that a rank needs to train: in the one process there is, or read from the job file by each of several."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from easyllm.core.artifact import write_whole
from easyllm.core.conversations import Conversation
from easyllm.core.examples import Example
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.order import Step

FOLDER, JOB, OUTCOME, WEIGHTS = ".ranks", "job.json", "outcome.json", "weights.pt"

NOWHERE = Conversation((), Path(), 0)
"""A rank sees tokens alone."""


@dataclass(frozen=True)
class Work:
    """Rows as tokens, the order of steps, and what the model is made from."""

    config: FinetuneConfig
    directory: Path
    """Of the base."""
    seed: int
    device: str
    """cuda or cpu."""
    dtype: str
    """What is computed in, as torch calls it."""
    tokens: int
    """That the tokenizer knows."""
    pad_id: int
    train: Sequence[Example]
    held_out: Sequence[Example]
    steps: Sequence[Step]
    state: Path
    """The folder of the state that a cut run goes on from."""
    library: Path | None = None
    """DeepSpeed's compiled CPU Adam, where its package does not have it."""

    def write(self, folder: Path) -> Path:
        """The job file in ``folder``, the rows beside it."""
        folder.mkdir(exist_ok=True)
        for name, examples in (("train", self.train), ("held_out", self.held_out)):
            _write_rows(folder / f"{name}.npz", examples)
        data = {
            "config": self.config.model_dump(mode="json"), "directory": str(self.directory), "seed": self.seed,
            "device": self.device, "dtype": self.dtype, "tokens": self.tokens, "pad_id": self.pad_id,
            "steps": [[step.epoch, list(step.rows)] for step in self.steps], "state": str(self.state),
            "library": str(self.library) if self.library else None,
        }  # fmt: skip
        write_whole(folder / JOB, json.dumps(data) + "\n")
        return folder / JOB

    @classmethod
    def read(cls, path: Path) -> "Work":
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        config = FinetuneConfig.model_validate(data.pop("config"))
        steps = [Step(epoch, tuple(rows)) for epoch, rows in data.pop("steps")]
        places = {key: Path(data.pop(key)) for key in ("directory", "state")}
        library = data.pop("library")
        rows = {name: _read_rows(path.with_name(f"{name}.npz")) for name in ("train", "held_out")}
        return cls(config=config, steps=steps, library=Path(library) if library else None, **places, **rows, **data)


def _write_rows(path: Path, examples: Sequence[Example]) -> None:
    lengths = np.array([len(example.ids) for example in examples], np.int64)
    ids = np.array([number for example in examples for number in example.ids], np.int64)
    labels = np.array([label for example in examples for label in example.labels], np.int64)
    np.savez(path, lengths=lengths, ids=ids, labels=labels)


def _read_rows(path: Path) -> list[Example]:
    with np.load(path) as stored:
        ends = stored["lengths"].cumsum()[:-1]
        parts = [np.split(stored[name], ends) if len(stored["lengths"]) else [] for name in ("ids", "labels")]
    return [Example(ids.tolist(), labels.tolist(), NOWHERE) for ids, labels in zip(*parts, strict=True)]
