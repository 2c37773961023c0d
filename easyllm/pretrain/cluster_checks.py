"""What must hold for many machines, before anything is started on one of them. Pure."""

from pathlib import Path
from typing import Any

from easyllm.core import cluster as clusters
from easyllm.core.cluster import ClusterConfig
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.freshness import fingerprint
from easyllm.core.hosts import read_hostfile
from easyllm.core.stage import Job
from easyllm.core.workplace import REQUEST
from easyllm.pretrain import heartbeat
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.job import BEATS, OUTCOME


def check(job: Job[PretrainConfig]) -> list[Problem]:
    """Everything wrong with the recipe's cluster, for pretraining."""
    cluster = job.cluster
    if cluster is None:
        return []
    if cluster.launcher == "ray":
        return [_wrong("CLUSTER-003", "launcher"), *clusters.check(cluster, "pretrain")]
    return [
        *clusters.check(cluster, "pretrain"),
        *_ranks(job.config, cluster),
        *_rendezvous(cluster),
        *_hosts(cluster),
        *_mount(job, cluster),
        *_at_work(job, cluster),
    ]


def _wrong(code: str, key: str, **numbers: Any) -> Problem:
    return problem(code, stage="pretrain", key=f"cluster.{key}", **numbers)


def _ranks(config: PretrainConfig, cluster: ClusterConfig) -> list[Problem]:
    if config.ranks == cluster.ranks:
        return []
    return [
        problem(
            "CLUSTER-004", stage="pretrain", key="pretrain.ranks", nodes=cluster.nodes, gpus=cluster.gpus_per_node,
            product=cluster.ranks, ranks=config.ranks,
        )
    ]  # fmt: skip


def _rendezvous(cluster: ClusterConfig) -> list[Problem]:
    """Who starts nodes one by one must tell them where to meet; who meets once cannot meet again."""
    if cluster.launcher not in ("torchrun", "deepspeed"):
        return []
    meeting, found = cluster.rendezvous, []
    alone = cluster.launcher == "torchrun" or not starts_by_ssh(cluster)
    if meeting is None and alone and cluster.nodes > 1:
        found.append(_wrong("CLUSTER-005", "nodes", nodes=cluster.nodes, launcher=cluster.launcher))
    if cluster.max_restarts and (meeting is None or meeting.kind == "static"):
        found.append(_wrong("CLUSTER-006", "max_restarts", restarts=cluster.max_restarts))
    if meeting is not None and meeting.kind == "c10d" and cluster.launcher == "deepspeed":
        found.append(_wrong("CLUSTER-012", "rendezvous.kind"))
    return found


def starts_by_ssh(cluster: ClusterConfig) -> bool:
    """Whether DeepSpeed's launcher reaches the other nodes itself."""
    return cluster.deepspeed is None or cluster.deepspeed.ssh


def _hosts(cluster: ClusterConfig) -> list[Problem]:
    """As many hosts as nodes, each with as many slots as the recipe gives it ranks."""
    if cluster.launcher == "deepspeed" and (cluster.hosts is None) == (cluster.hostfile is None):
        return [_wrong("CLUSTER-008", "launcher", found=0 if cluster.hosts is None else 2)]
    hosts = cluster.hosts
    if hosts is not None and (len(hosts) != cluster.nodes or len(set(hosts)) != len(hosts)):
        return [_wrong("CLUSTER-007", "hosts", hosts=len(hosts), named=", ".join(hosts) or "-", nodes=cluster.nodes)]
    if cluster.launcher != "deepspeed" or cluster.hostfile is None:
        return []
    try:
        slots = list(read_hostfile(Path(cluster.hostfile), "pretrain").values())
    except UserError as error:
        return list(error.problems)
    if slots == [cluster.gpus_per_node] * cluster.nodes:
        return []
    told = ", ".join(map(str, slots)) or "-"
    numbers = {"hosts": len(slots), "slots": told, "nodes": cluster.nodes, "gpus": cluster.gpus_per_node}
    return [_wrong("CLUSTER-011", "hostfile", **numbers)]


def _mount(job: Job[PretrainConfig], cluster: ClusterConfig) -> list[Problem]:
    """Pods see what is on the claim, and nothing else of this machine."""
    if cluster.launcher != "kubernetes" or cluster.kubernetes is None:
        return []
    mount = Path(cluster.kubernetes.mount)
    # Not of a .gguf: what the ranks read is made of it beside the runs.
    read = [found.path for found in job.inputs.values() if found.path and found.path.suffix != ".gguf"]
    paths = [job.out, *read]
    outside = [path for path in paths if not path.absolute().is_relative_to(mount)]
    return [_wrong("CLUSTER-013", "kubernetes.mount", mount=str(mount), path=str(path)) for path in outside[:1]]


def _at_work(job: Job[PretrainConfig], cluster: ClusterConfig) -> list[Problem]:
    """Ranks that others have started hold no lock: a changed recipe would clear their folder away below them."""
    mark = job.out / REQUEST
    if cluster.launcher == "local" or not mark.is_file() or mark.read_text("utf-8") == fingerprint(job):
        return []
    if (job.out / OUTCOME).is_file():
        return []
    spoke = heartbeat.spoke_before(job.out / BEATS, job.config.timeout_seconds)
    if spoke is None:
        return []
    return [problem("CLUSTER-017", stage="pretrain", key="pretrain", path=str(job.out), seconds=round(spoke))]
