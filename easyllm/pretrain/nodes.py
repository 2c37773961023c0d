"""The exact commands that train on the recipe's machines, and the files that they name. They run without easyllm."""

import sys
from pathlib import Path

from easyllm.core.cluster import ClusterConfig, Rendezvous
from easyllm.core.hosts import hostfile_text, read_hostfile
from easyllm.core.launch import torchrun_command
from easyllm.core.messages import say
from easyllm.core.shell import line
from easyllm.core.stage import Job
from easyllm.pretrain.cluster_checks import starts_by_ssh
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.sbatch import SECONDS_TO_SAVE, sbatch
from easyllm.pretrain.trainjob import trainjob

RANK_PROGRAM = "easyllm.pretrain.train"
JOB_FILE = "job.json"
SBATCH, TRAINJOB, HOSTFILE = "pretrain.sbatch", "trainjob.yaml", "hostfile"
FOR_COMMANDS = (JOB_FILE, SBATCH, TRAINJOB, HOSTFILE)
SAVING = ("--shutdown-timeout", str(SECONDS_TO_SAVE))
"""How long torchrun lets ranks finish their step and save when it is told to end; its own patience is 30 s."""


def elsewhere(job: Job[PretrainConfig]) -> bool:
    """Whether somebody else than easyllm starts the ranks."""
    return job.cluster is not None and job.cluster.launcher != "local"


def commands(job: Job[PretrainConfig]) -> list[str]:
    """One line for every node, or one that starts all; they are good once ``easyllm pretrain`` has prepared the job."""
    cluster, job_file = job.cluster, str(job.out / JOB_FILE)
    if cluster is None or cluster.launcher == "local":
        return [line(torchrun_command(RANK_PROGRAM, [job_file], job.config.ranks))]
    if cluster.launcher == "slurm":
        return [line(["sbatch", str(job.out / SBATCH)])]
    if cluster.launcher == "kubernetes":
        return [line(["kubectl", "apply", "-f", str(job.out / TRAINJOB)])]
    if cluster.launcher == "deepspeed":
        return _deepspeed(cluster, job.out)
    return _torchrun(cluster, job.recipe, job.out)


def job_files(job: Job[PretrainConfig]) -> dict[str, str]:
    """The files beside the job file that the commands name: what to write by name."""
    cluster, arguments = job.cluster, ["--module", RANK_PROGRAM, str(job.out / JOB_FILE)]
    if cluster is None:
        return {}
    on_gpus = job.config.device != "cpu"
    if cluster.launcher == "slurm":
        return {SBATCH: sbatch(cluster, job.recipe, job.run_dir, _interpreter(cluster), arguments, on_gpus)}
    if cluster.launcher == "kubernetes":
        return {TRAINJOB: trainjob(cluster, job.recipe, [*SAVING, *arguments], on_gpus)}
    if cluster.launcher == "deepspeed" and cluster.hosts:
        return {HOSTFILE: hostfile_text(cluster.hosts, cluster.gpus_per_node)}
    return {}


def _interpreter(cluster: ClusterConfig, module: str = "torch.distributed.run") -> list[str]:
    return [cluster.python or sys.executable, "-m", module]


def _torchrun(cluster: ClusterConfig, name: str, out: Path) -> list[str]:
    """torchrun on every node: with its number (static), or without (c10d)."""
    meeting = cluster.rendezvous or Rendezvous(endpoint="127.0.0.1:29400")  # one node meets itself
    host, port = meeting.endpoint.rsplit(":", 1)
    common = [
        *_interpreter(cluster), "--nnodes", str(cluster.nodes), "--nproc-per-node", str(cluster.gpus_per_node),
        *SAVING,
    ]  # fmt: skip
    program = ["--module", RANK_PROGRAM, str(out / JOB_FILE)]
    if meeting.kind == "static":
        ways = [
            ["--node-rank", str(node), "--master-addr", host, "--master-port", port, *_address(cluster, node)]
            for node in range(cluster.nodes)
        ]
        return [line([*common, *way, *program], note=_where(cluster, node)) for node, way in enumerate(ways)]
    elastic = [
        "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting.endpoint, "--rdzv-id", name,
        "--max-restarts", str(cluster.max_restarts),
    ]  # fmt: skip
    if cluster.hosts is None:
        return [line([*common, *elastic, *program], ELASTIC, say("on_every_node", nodes=cluster.nodes))]
    # A host may know itself by another name than the endpoint's: say who keeps the endpoint.
    return [
        line(
            [*common, *elastic, "--rdzv-conf", f"is_host={int(node == 0)}", *_address(cluster, node), *program],
            ELASTIC,
            _where(cluster, node),
        )
        for node in range(cluster.nodes)
    ]


ELASTIC = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without it (torch 2.13) the nodes that are left keep the store of the round before, and one that comes back waits in
RendezvousStoreInfo.build to be told of it; ranks that start again would find in it what the dead ones had said."""


def _address(cluster: ClusterConfig, node: int) -> list[str]:
    return ["--local-addr", cluster.hosts[node]] if cluster.hosts else []


def _where(cluster: ClusterConfig, node: int) -> str:
    return say("on_host", host=cluster.hosts[node]) if cluster.hosts else say("on_node", node=node)


def _deepspeed(cluster: ClusterConfig, out: Path) -> list[str]:
    """DeepSpeed's launcher: once where it has ssh, else on every node."""
    file = Path(cluster.hostfile) if cluster.hostfile else out / HOSTFILE
    hosts = cluster.hosts or tuple(read_hostfile(file, "pretrain"))
    meeting: list[str] = []
    if cluster.rendezvous:
        host, port = cluster.rendezvous.endpoint.rsplit(":", 1)
        meeting = ["--master_addr", host, "--master_port", port]
    start = [*_interpreter(cluster, "deepspeed.launcher.runner"), "--hostfile", str(file), *meeting]
    program = ["--no_local_rank", "--module", RANK_PROGRAM, str(out / JOB_FILE)]
    if starts_by_ssh(cluster):
        return [line([*start, *program], note=say("on_host", host=hosts[0]))]
    return [
        line([*start, "--no_ssh", "--node_rank", str(node), *program], note=say("on_host", host=host))
        for node, host in enumerate(hosts)
    ]
