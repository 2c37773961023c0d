"""The job file: everything the ranks need, so that the printed command runs by hand too, on any node.

Paths in it start at the file's own folder, so it is good wherever a node has mounted the file system.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.families.weights import weight_files
from easyllm.core.megatron.architecture import Architecture
from easyllm.pretrain.blends import Blends
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.deepspeed_config import Extras

OUTCOME, BEATS = ".outcome.json", ".heartbeat"


@dataclass(frozen=True)
class Start:
    """The Hugging Face model that training begins with."""

    directory: Path
    new_rows: Path | None = None
    """What the rows of new tokens begin as; None where there are no new tokens."""

    def files(self) -> list[Path]:
        """That every rank opens."""
        found = [self.directory / "config.json", *weight_files(self.directory)]
        return [*found, self.new_rows] if self.new_rows else found

    def as_record(self, base: Path) -> dict[str, Any]:
        """Plain values; paths start at ``base``."""
        rows = self.new_rows and os.path.relpath(self.new_rows, base)
        return {"directory": os.path.relpath(self.directory, base), "new_rows": rows}

    @classmethod
    def from_record(cls, record: dict[str, Any], base: Path) -> "Start":
        """The inverse of as_record."""
        rows = record["new_rows"]
        directory = Path(os.path.normpath(base / record["directory"]))
        return cls(directory, Path(os.path.normpath(base / rows)) if rows else None)


@dataclass(frozen=True)
class RankJob:
    """What one training run is made of, resolved."""

    config: PretrainConfig
    architecture: Architecture
    seed: int
    device: str
    """cuda or cpu."""
    data: Blends
    """Where the tokens lie, and how they are drawn."""
    eod_id: int
    out: Path
    """The folder of the job file."""
    interface: str | None = None
    """Network interface between the nodes."""
    extras: Extras = field(default_factory=Extras)
    """For engine deepspeed."""
    start: Start | None = None
    """None: the first weights are drawn."""

    def reads(self) -> list[Path]:
        """The files that every rank opens."""
        tokens = [source.prefix.with_name(source.prefix.name + ".bin") for source in self.data.sources()]
        library = [self.extras.library] if self.extras.library else []
        return [*tokens, *library, *(self.start.files() if self.start else [])]

    @property
    def ranks(self) -> int:
        return self.config.ranks

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def losses(self) -> Path:
        return self.out / "losses.csv"

    @property
    def outcome(self) -> Path:
        """Where the first rank leaves what the stage reports."""
        return self.out / OUTCOME

    @property
    def beats(self) -> Path:
        """Where every rank says where it stands."""
        return self.out / BEATS

    def write(self, path: Path) -> None:
        data = {
            "config": self.config.model_dump(),
            "architecture": self.architecture.as_record(),
            "seed": self.seed,
            "device": self.device,
            "data": self.data.as_record(self.out),
            "eod_id": self.eod_id,
            "interface": self.interface,
            "deepspeed": self.extras.as_record(self.out),
            "start": self.start and self.start.as_record(self.out),
        }
        write_whole(path, json.dumps(data, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "RankJob":
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return cls(
            config=PretrainConfig.model_validate(data["config"]),
            architecture=Architecture.from_record(data["architecture"]),
            seed=data["seed"],
            device=data["device"],
            data=Blends.from_record(data["data"], path.parent),
            eod_id=data["eod_id"],
            out=path.parent,
            interface=data["interface"],
            extras=Extras.from_record(data["deepspeed"], path.parent),
            start=Start.from_record(data["start"], path.parent) if data["start"] else None,
        )
