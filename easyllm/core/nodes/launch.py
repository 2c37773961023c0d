"""What a stage wants to have started, by whomever the recipe's cluster names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.cluster import ClusterConfig
from easyllm.core.stage import Job

JOB_FILE = "job.json"


@dataclass(frozen=True)
class Launch:
    """One job's ranks. The section of its stage has ``ranks`` and ``device``."""

    job: Job[Any]
    module: str
    """The program of every rank; its one argument is the job file."""
    title: str
    """What the work is called at the head of a job file."""
    folder: Path
    """Of the job file, and of all that the commands name."""
    outcome: Path
    """What the first rank leaves at its end."""
    beats: Path
    """The folder where every rank says where it stands."""
    timeout_seconds: float
    """A rank that does not move for so long is taken for hung."""
    inputs: str
    """What the ranks read that is not of the run, for a person."""
    suffix: str = ""
    """Sets the job apart from those that other stages of the same recipe send to the same scheduler."""

    @property
    def stage(self) -> str:
        return self.job.stage

    @property
    def cluster(self) -> ClusterConfig | None:
        return self.job.cluster

    @property
    def ranks(self) -> int:
        return int(self.job.config.ranks)

    @property
    def on_gpus(self) -> bool:
        return bool(self.job.config.device != "cpu")

    @property
    def name(self) -> str:
        return self.job.recipe + self.suffix

    @property
    def job_file(self) -> Path:
        return self.folder / JOB_FILE


def elsewhere(job: Job[Any]) -> bool:
    """Whether somebody else than easyllm starts the ranks."""
    return job.cluster is not None and job.cluster.launcher not in ("local", "ray")
