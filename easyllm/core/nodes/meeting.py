"""All ranks, whatever node they are on, look at the same job before one of them trains: a wrong set-up has a name.

Without it a node that does not share the run's folder dies alone, and the others wait for it until they time out.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from easyllm.core.errors import StageFailed, failed

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PATIENCE = timedelta(minutes=30)
"""For nodes that are started one after the other, by hand."""
MARK = ".shared"
SEEN_WITHIN_SECONDS = 20.0
"""A network file system may show a new file late."""


@dataclass(frozen=True)
class Word:
    """What a rank has found on its node."""

    host: str
    sees: bool
    """The mark of the first rank, and all that the job reads."""
    asked: int
    """Ranks on this node."""
    gpus: int | None
    """GPUs on this node; None for a job on the CPU."""


class Shared(Protocol):
    """What a job file tells of the job that is done together."""

    @property
    def ranks(self) -> int: ...

    @property
    def device(self) -> str:
        """cuda or cpu."""

    @property
    def interface(self) -> str | None:
        """Network interface between the nodes."""

    def reads(self) -> Sequence[Path]:
        """The files that every rank opens."""


S = TypeVar("S", bound=Shared)


def meet(job_file: Path, read: Callable[[Path], S], stage: str, others: str) -> "tuple[S, Store]":
    """The job as ``read`` has it, once all ranks have agreed on it.

    StageFailed on every rank where one node cannot take part. ``others`` is what all ranks read besides the run's own
    files, for a person. Keep the store until the process group stands: the first rank may be its server.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public, and not in __all__
    from torch.distributed.rendezvous import rendezvous

    opened, rank, ranks = next(rendezvous("env://", timeout=PATIENCE))
    store = PrefixStore("meeting", opened)
    if rank == 0:
        store.set("mark", _leave_mark(job_file))
    word = _look(job_file, store.get("mark").decode(), read)
    store.set(f"word {rank}", json.dumps(asdict(word)))
    if rank == 0:
        words = [Word(**json.loads(store.get(f"word {other}"))) for other in range(ranks)]
        store.set("verdict", json.dumps(_verdict(job_file, words, read, others)))
    verdict = json.loads(store.get("verdict"))
    if verdict:
        _hear_together(store, rank, ranks)
        raise _refusal(verdict, stage)
    job = read(job_file)
    _choose_interface(job.interface)
    return job, opened


def _leave_mark(job_file: Path) -> str:
    """A word that only those read who see this very folder; empty where the first rank does not see the job."""
    if not job_file.is_file():
        return ""
    mark = secrets.token_hex(8)
    (job_file.parent / MARK).write_text(mark, "utf-8")
    return mark


def _look(job_file: Path, mark: str, read: Callable[[Path], Shared]) -> Word:
    job = read(job_file) if job_file.is_file() else None
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)  # torchrun's or DeepSpeed's
    sees = job is not None and _sees(job_file.parent / MARK, mark) and all(path.is_file() for path in job.reads())
    gpus = None
    if job is not None and job.device == "cuda":
        import torch

        gpus = torch.cuda.device_count()
    return Word(socket.gethostname(), sees, here, gpus)


def _sees(path: Path, mark: str) -> bool:
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while mark:
        with suppress(OSError):
            if path.read_text("utf-8") == mark:
                return True
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return False


def _verdict(job_file: Path, words: list[Word], read: Callable[[Path], Shared], others: str) -> dict[str, Any] | None:
    """The code and the numbers of what is wrong, by the first rank for all."""
    blind = _hosts(word for word in words if not word.sees)
    if blind:
        return {"code": "CLUSTER-014", "key": "runs_dir", "path": str(job_file.parent), "nodes": blind, "reads": others}
    wanted = read(job_file).ranks
    if len(words) != wanted:
        return {"code": "CLUSTER-015", "key": "cluster.nodes", "ranks": len(words), "wanted": wanted}
    poor = _hosts((word for word in words if word.gpus is not None and word.gpus < word.asked), with_gpus=True)
    if poor:
        return {"code": "CLUSTER-016", "key": "cluster.gpus_per_node", "wanted": words[0].asked, "nodes": poor}
    return None


def _hosts(words: Iterable[Word], with_gpus: bool = False) -> str:
    return ", ".join(dict.fromkeys(f"{word.host} ({word.gpus})" if with_gpus else word.host for word in words))


def _hear_together(store: "Store", rank: int, ranks: int) -> None:
    """The first rank, which may hold the store, goes last."""
    store.set(f"heard {rank}", "")
    if rank == 0:
        store.wait([f"heard {other}" for other in range(ranks)], timedelta(seconds=60))


def _refusal(verdict: dict[str, Any], stage: str) -> StageFailed:
    numbers = {name: value for name, value in verdict.items() if name != "code"}
    return failed(str(verdict["code"]), stage=stage, **numbers)


def _choose_interface(interface: str | None) -> None:
    """For the libraries that a process group is made of; what a node's own environment says is left."""
    if interface:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", interface)
