"""Run the passes on this machine: the tasks of each among worker processes, what a cut run has done not done again."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.executor.base import DistributedEnvVars, PipelineExecutor
from loguru import logger
from tqdm import tqdm

from easyllm.core.progress import progress
from easyllm.corpus.clean.cleaning import Cleaning, logs_of
from easyllm.corpus.clean.passes import Pass, passes
from easyllm.corpus.workers import Crew


@dataclass(frozen=True)
class Errand:
    """One task of one pass."""

    number: int
    turn: int
    """Index into the passes."""
    rank: int


class Here(PipelineExecutor):  # type: ignore[misc]  # datatrove is untyped
    """datatrove's executor for one task after the other in this process. What it has to say goes to its logs only."""

    def __init__(self, step: Pass, logs: Path) -> None:
        super().__init__(step.blocks, str(logs))
        self._tasks = step.tasks

    @property
    def world_size(self) -> int:
        return self._tasks

    def get_distributed_env(self, node_rank: int = -1) -> DistributedEnvVars:
        return DistributedEnvVars(
            datatrove_node_ips="localhost",
            datatrove_cpus_per_task="1",
            datatrove_mem_per_cpu="-1",
            datatrove_gpus_on_node="0",
            datatrove_executor="LOCAL",
        )

    def run(self) -> None:
        for rank in self.get_incomplete_ranks():
            self.run_task(rank)

    def run_task(self, rank: int) -> None:
        """Nothing where the task is complete."""
        with _quiet():
            self._run_for_rank(rank)


@contextmanager
def _quiet() -> Iterator[None]:
    """datatrove puts its log on stderr at every task, and bars of tqdm beside it."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        try:
            yield
        finally:
            logger.remove()


class Cleaner:
    """Runs errands, in a worker or here."""

    def __init__(self, cleaning: Cleaning) -> None:
        self._cleaning = cleaning
        tqdm.set_lock(threading.RLock())  # its own is for several processes, and a killed one leaves it behind

    def make(self, errand: Errand) -> bool:
        # Blocks remember what they have counted, so each task gets new ones.
        step = passes(self._cleaning)[errand.turn]
        Here(step, logs_of(self._cleaning, step.name)).run_task(errand.rank)
        return True


def run_passes(cleaning: Cleaning, workers: int) -> None:
    """All passes, one after the other. Raises what reading the documents raises, and CORPUS-010 as tokenising does."""
    steps = passes(cleaning)
    done = [[rank for rank in range(step.tasks) if _completed(cleaning, step, rank)] for step in steps]
    with (
        progress("cleaning", sum(step.tasks for step in steps), "tasks", sum(map(len, done))) as bar,
        _crew(cleaning, workers) as crew,
    ):
        number = 0
        for turn, step in enumerate(steps):
            errands = [Errand(number + rank, turn, rank) for rank in range(step.tasks) if rank not in set(done[turn])]
            number += step.tasks
            figures: dict[str, Any] = {"pass": step.name}
            for _ in crew(errands):
                bar.advance(**figures)


def _completed(cleaning: Cleaning, step: Pass, rank: int) -> bool:
    return (logs_of(cleaning, step.name) / "completions" / f"{rank:05d}").is_file()


@contextmanager
def _crew(cleaning: Cleaning, workers: int) -> Iterator[Any]:
    """Runs errands: where a pass has several, in processes of their own that are kept from pass to pass."""
    crew, here = Crew(Cleaner, cleaning, workers), Cleaner(cleaning)

    def work(errands: Sequence[Errand]) -> Iterator[Any]:
        if workers == 1 or len(errands) < 2:
            return map(here.make, errands)
        return crew.run((errand, None) for errand in errands)

    try:
        yield work
    finally:
        crew.dismiss()
