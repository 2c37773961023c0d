"""The corpus less what the blocks drop: its sources anew, with files of cleaned documents."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

from easyllm.core.stage import Job
from easyllm.corpus.clean.checks import require_documents
from easyllm.corpus.clean.cleaning import (
    FILE,
    Cleaning,
    home_of,
    read_cleaning,
    tasks_of,
    write_cleaning,
)
from easyllm.corpus.clean.dropped import Cleaned, read_dropped
from easyllm.corpus.clean.elsewhere import await_passes, elsewhere
from easyllm.corpus.config import CorpusConfig
from easyllm.corpus.sources import Source, files_of
from easyllm.corpus.workers import cores

TEXT_KEY = "text"
"""Of the rows that datatrove writes."""


@dataclass(frozen=True)
class Made:
    """The cleaned corpus."""

    sources: list[Source]
    cleaned: Cleaned


def clean(job: Job[CorpusConfig], sources: Sequence[Source]) -> Made:
    """Run the blocks, or what a cut run has left of them to do; where Slurm or Ray does, raise Waiting until they have.

    Raises what reading documents raises, CORPUS-010 where a worker dies, CORPUS-033 where a source has nothing left.
    """
    from easyllm.corpus.clean.run import run_passes

    cleaning = cleaning_of(job, sources)
    if elsewhere(job):
        await_passes(job, cleaning)
    else:
        run_passes(cleaning, job.config.workers or cores())
    made = collect(cleaning, sources)
    for name in ("filtered", "exact", "near"):  # what passes hand on to each other
        shutil.rmtree(cleaning.directory / name, ignore_errors=True)
    return made


def cleaning_of(job: Job[CorpusConfig], sources: Sequence[Source]) -> Cleaning:
    """The cleaning of this job; as it was begun where a run before this one was cut."""
    config = job.config.clean
    assert config is not None
    home = home_of(job.out)
    if (home / FILE).is_file():
        return read_cleaning(home)
    home.mkdir(exist_ok=True)
    files, source_of = files_of(sources)
    kept = job.out / "clean" if config.keep else home / "kept"
    cleaning = Cleaning(home, kept, config, files, job.config.text_key, tasks_of(files, job.config.text_key, source_of))
    write_cleaning(cleaning)
    return cleaning


def collect(cleaning: Cleaning, sources: Sequence[Source]) -> Made:
    """What finished passes have left. Raises CORPUS-033 where a source has nothing."""
    from easyllm.corpus.clean.passes import kept_file

    source_of_task = [task.source for task in cleaning.tasks]
    cleaned = read_dropped(cleaning.directory, cleaning.config.blocks, source_of_task)
    require_documents(sources, cleaned)
    kept = [(source, kept_file(cleaning.kept, rank)) for rank, source in enumerate(source_of_task)]
    return Made(
        [
            replace(source, files=tuple(path for owner, path in kept if owner == number and path.is_file()))
            for number, source in enumerate(sources)
        ],
        cleaned,
    )
