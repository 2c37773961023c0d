"""The folder of one run: who works in it, what is half done, what has been published, whether there is room."""

import errno
import fcntl
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from easyllm import __version__
from easyllm.core.artifact import Manifest, list_outputs, publish, read_manifest, write_whole
from easyllm.core.digest import of_value
from easyllm.core.errors import Problem, UserError, problem, refuse
from easyllm.core.freshness import config_of, fingerprint
from easyllm.core.memory import peak_memory
from easyllm.core.sizes import human_bytes
from easyllm.core.stage import Job, Plan, Result

REQUEST = ".request"
"""Fingerprint of the job a partial directory belongs to."""

RECORDED = (
    "torch",
    "megatron-core",
    "transformers",
    "tokenizers",
    "peft",
    "accelerate",
    "numpy",
    "safetensors",
)


def writable(run_dir: Path) -> list[Problem]:
    """RUN-002 when nothing can be written at ``run_dir``. Makes no folder."""
    there = run_dir
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return [problem("RUN-002", key="runs_dir", path=str(run_dir), reason=os.strerror(errno.ENOTDIR))]
    if not os.access(there, os.W_OK | os.X_OK):
        return [problem("RUN-002", key="runs_dir", path=str(run_dir), reason=os.strerror(errno.EACCES))]
    return []


def room_for(stage: str, plan: Plan, run_dir: Path) -> list[Problem]:
    """RUN-003 when the plan needs more than the disk of ``run_dir`` has free."""
    there = run_dir
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if plan.disk_bytes <= free:
        return []
    needed = human_bytes(plan.disk_bytes)
    return [problem("RUN-003", stage=stage, key=stage, needed=needed, free=human_bytes(free), path=str(run_dir))]


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run's lock, or RUN-001. The kernel lets go of it however the holder ends."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / ".lock").open("a+")
    except OSError as error:
        raise refuse("RUN-002", path=str(run_dir), reason=error.strerror) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise refuse("RUN-001", pid=file.read().strip() or "?", path=str(run_dir)) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def open_partial(job: Job[Any]) -> bool:
    """Make ``job.out`` ready; True when it holds the state of this very job, cut before its end."""
    mark = job.out / REQUEST
    wanted = fingerprint(job)
    if mark.is_file() and mark.read_text("utf-8") == wanted:
        return True
    if job.out.exists():
        shutil.rmtree(job.out)
    job.out.mkdir(parents=True)
    write_whole(mark, wanted)
    return False


def published(final: Path) -> Manifest:
    manifest = read_manifest(final)
    assert manifest is not None, final
    return manifest


def publish_result(job: Job[Any], run: Callable[[Job[Any]], Result]) -> Manifest:
    """Do the work in ``job.out`` and make it the stage's artifact, manifest last."""
    started = datetime.now(UTC)
    with peak_memory() as peak:
        result = run(job)
    ended = datetime.now(UTC)
    outputs = list_outputs(job.out)
    manifest = Manifest(
        kind=result.kind,
        stage=job.stage,
        recipe=job.recipe,
        fingerprint=fingerprint(job),
        digest=of_value([[o["path"], o["sha256"]] for o in outputs]),
        config=config_of(job),
        inputs={r: {"ref": i.ref, "path": str(i.path or ""), "digest": i.digest} for r, i in job.inputs.items()},
        outputs=outputs,
        versions=versions(),
        seed=job.seed,
        decisions=result.decisions,
        metrics=result.metrics,
        records=result.records,
        started=started.isoformat(timespec="seconds"),
        ended=ended.isoformat(timespec="seconds"),
        seconds=(ended - started).total_seconds(),
        peak_memory_bytes=peak.bytes,
    )
    publish(job.out, job.run_dir / job.stage, manifest)
    return manifest


def versions() -> dict[str, str]:
    """What ran: easyllm, Python, the libraries that decide results, and the image if there is one."""
    found = {"easyllm": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in RECORDED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # a part of the pipeline may run where another part's libraries are not installed
    if os.environ.get("EASYLLM_IMAGE"):
        found["image"] = os.environ["EASYLLM_IMAGE"]
    return found


@contextmanager
def full_disk_is_the_users(stage: str, out: Path) -> Iterator[None]:
    """A disk that fills up or turns read-only while a stage works is told as a coded error, not a traceback."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            entry = problem("RUN-002", stage=stage, path=str(out), reason=error.strerror)
            raise UserError(entry) from error
        raise
