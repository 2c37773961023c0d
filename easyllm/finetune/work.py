"""All that a rank needs to train: in the one process there is, or read from the job file by each of several.

Paths in the job file start at its own folder, so it is good wherever a node has mounted the file system.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from easyllm.core.artifact import write_whole
from easyllm.core.conversations import Conversation
from easyllm.core.examples import Example
from easyllm.core.families.weights import weight_files
from easyllm.core.nodes.launch import JOB_FILE
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.order import Step

WEIGHTS = "weights.pt"

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
    interface: str | None = None
    """Network interface between the nodes."""

    def write(self, folder: Path) -> Path:
        """The job file in ``folder``, the rows beside it."""
        folder.mkdir(exist_ok=True)
        for name, examples in (("train", self.train), ("held_out", self.held_out)):
            _write_rows(folder / f"{name}.npz", examples)
        data = {
            "config": self.config.model_dump(mode="json"), "seed": self.seed,
            "directory": _from(folder, self.directory), "device": self.device, "dtype": self.dtype,
            "tokens": self.tokens, "pad_id": self.pad_id,
            "steps": [[step.epoch, list(step.rows)] for step in self.steps], "state": _from(folder, self.state),
            "library": _from(folder, self.library) if self.library else None, "interface": self.interface,
        }  # fmt: skip
        write_whole(folder / JOB_FILE, json.dumps(data) + "\n")
        return folder / JOB_FILE

    @classmethod
    def read(cls, path: Path) -> "Work":
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        config = FinetuneConfig.model_validate(data.pop("config"))
        steps = [Step(epoch, tuple(rows)) for epoch, rows in data.pop("steps")]
        places: dict[str, Any] = {key: _there(path, data.pop(key)) for key in ("directory", "state")}
        library = data.pop("library")
        library = _there(path, library) if library else None
        rows: dict[str, Any] = {name: _read_rows(path.with_name(f"{name}.npz")) for name in ("train", "held_out")}
        return cls(config=config, steps=steps, library=library, **places, **rows, **data)


@dataclass(frozen=True)
class Outline:
    """What a rank looks at before it takes part in a job."""

    ranks: int
    device: str
    interface: str | None
    files: Sequence[Path]

    def reads(self) -> Sequence[Path]:
        """The files that every rank opens, besides those in the job file's own folder."""
        return self.files

    @classmethod
    def read(cls, path: Path) -> "Outline":
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        base = _there(path, data["directory"])
        library = [_there(path, data["library"])] if data["library"] else []
        files = [base / "config.json", *weight_files(base), *library]
        return cls(data["config"]["ranks"], data["device"], data["interface"], files)


def _from(folder: Path, path: Path) -> str:
    return os.path.relpath(path, folder)


def _there(job_file: Path, relative: str) -> Path:
    return Path(os.path.normpath(job_file.parent / relative))


def _write_rows(path: Path, examples: Sequence[Example]) -> None:
    lengths = np.array([len(example.ids) for example in examples], np.int64)
    ids = np.array([number for example in examples for number in example.ids], np.int64)
    labels = np.array([label for example in examples for label in example.labels], np.int64)
    beside = path.with_suffix(".half.npz")
    np.savez(beside, lengths=lengths, ids=ids, labels=labels)
    os.replace(beside, path)


def _read_rows(path: Path) -> list[Example]:
    with np.load(path) as stored:
        ends = stored["lengths"].cumsum()[:-1]
        parts = [np.split(stored[name], ends) if len(stored["lengths"]) else [] for name in ("ids", "labels")]
    return [Example(ids.tolist(), labels.tolist(), NOWHERE) for ids, labels in zip(*parts, strict=True)]
