"""What must hold for many machines, before anything is started on one of them. Pure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyllm.core import cluster as clusters
from easyllm.core.cluster import ClusterConfig
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.freshness import fingerprint
from easyllm.core.hosts import read_hostfile
from easyllm.core.nodes import heartbeat
from easyllm.core.nodes.launch import Launch
from easyllm.core.workplace import REQUEST


def check(launch: Launch, reads: Sequence[Path]) -> list[Problem]:
    """Everything wrong with the recipe's cluster, for a stage that works on it; every rank opens ``reads``."""
    cluster, stage = launch.cluster, launch.stage
    if cluster is None:
        return []
    return [
        *clusters.check(cluster, stage),
        *_ranks(launch, cluster),
        *_rendezvous(cluster, stage),
        *_hosts(cluster, stage),
        *outside_mount(launch, [launch.job.out, *reads]),
        *_at_work(launch, cluster),
    ]


def _wrong(code: str, stage: str, key: str, **numbers: Any) -> Problem:
    return problem(code, stage=stage, key=f"cluster.{key}", **numbers)


def _ranks(launch: Launch, cluster: ClusterConfig) -> list[Problem]:
    if launch.ranks == cluster.ranks:
        return []
    return [
        problem(
            "CLUSTER-004", stage=launch.stage, key=f"{launch.stage}.ranks", nodes=cluster.nodes,
            gpus=cluster.gpus_per_node, product=cluster.ranks, ranks=launch.ranks,
        )
    ]  # fmt: skip


def _rendezvous(cluster: ClusterConfig, stage: str) -> list[Problem]:
    """Who starts nodes one by one must tell them where to meet; who meets once cannot meet again."""
    if cluster.launcher not in ("torchrun", "deepspeed"):
        return []
    meeting, found = cluster.rendezvous, []
    alone = cluster.launcher == "torchrun" or not starts_by_ssh(cluster)
    if meeting is None and alone and cluster.nodes > 1:
        found.append(_wrong("CLUSTER-005", stage, "nodes", nodes=cluster.nodes, launcher=cluster.launcher))
    if cluster.max_restarts and (meeting is None or meeting.kind == "static"):
        found.append(_wrong("CLUSTER-006", stage, "max_restarts", restarts=cluster.max_restarts))
    if meeting is not None and meeting.kind == "c10d" and cluster.launcher == "deepspeed":
        found.append(_wrong("CLUSTER-012", stage, "rendezvous.kind"))
    return found


def starts_by_ssh(cluster: ClusterConfig) -> bool:
    """Whether DeepSpeed's launcher reaches the other nodes itself."""
    return cluster.deepspeed is None or cluster.deepspeed.ssh


def _hosts(cluster: ClusterConfig, stage: str) -> list[Problem]:
    """As many hosts as nodes, each with as many slots as the recipe gives it ranks."""
    if cluster.launcher == "deepspeed" and (cluster.hosts is None) == (cluster.hostfile is None):
        return [_wrong("CLUSTER-008", stage, "launcher", found=0 if cluster.hosts is None else 2)]
    hosts = cluster.hosts
    if hosts is not None and (len(hosts) != cluster.nodes or len(set(hosts)) != len(hosts)):
        named = ", ".join(hosts) or "-"
        return [_wrong("CLUSTER-007", stage, "hosts", hosts=len(hosts), named=named, nodes=cluster.nodes)]
    if cluster.launcher != "deepspeed" or cluster.hostfile is None:
        return []
    try:
        slots = list(read_hostfile(Path(cluster.hostfile), stage).values())
    except UserError as error:
        return list(error.problems)
    if slots == [cluster.gpus_per_node] * cluster.nodes:
        return []
    told = ", ".join(map(str, slots)) or "-"
    numbers = {"hosts": len(slots), "slots": told, "nodes": cluster.nodes, "gpus": cluster.gpus_per_node}
    return [_wrong("CLUSTER-011", stage, "hostfile", **numbers)]


def outside_mount(launch: Launch, paths: Sequence[Path]) -> list[Problem]:
    """Pods see what is on the claim, and nothing else of this machine."""
    cluster = launch.cluster
    if cluster is None or cluster.launcher != "kubernetes" or cluster.kubernetes is None:
        return []
    mount = Path(cluster.kubernetes.mount)
    outside = [path for path in paths if not path.absolute().is_relative_to(mount)]
    return [
        _wrong(
            "CLUSTER-013", launch.stage, "kubernetes.mount", mount=str(mount), path=str(path), inputs=launch.inputs
        )
        for path in outside[:1]
    ]  # fmt: skip


def _at_work(launch: Launch, cluster: ClusterConfig) -> list[Problem]:
    """Ranks that others have started hold no lock: a changed recipe would clear their folder away below them."""
    job = launch.job
    mark = job.out / REQUEST
    if cluster.launcher == "local" or not mark.is_file() or mark.read_text("utf-8") == fingerprint(job):
        return []
    if launch.outcome.is_file():
        return []
    spoke = heartbeat.spoke_before(launch.beats, launch.timeout_seconds)
    if spoke is None:
        return []
    return [problem("CLUSTER-017", stage=launch.stage, key=launch.stage, path=str(job.out), seconds=round(spoke))]
