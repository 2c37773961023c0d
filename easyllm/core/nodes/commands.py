"""The exact commands that start a stage's ranks on the recipe's machines, and the files that they name.

They run without easyllm's command line.
"""

import sys
from pathlib import Path

from easyllm.core.cluster import ClusterConfig, Rendezvous
from easyllm.core.hosts import hostfile_text, read_hostfile
from easyllm.core.launch import torchrun_command
from easyllm.core.messages import say
from easyllm.core.nodes.checks import starts_by_ssh
from easyllm.core.nodes.launch import JOB_FILE, Launch
from easyllm.core.nodes.sbatch import SECONDS_TO_SAVE, sbatch
from easyllm.core.nodes.trainjob import trainjob
from easyllm.core.shell import line

TRAINJOB, HOSTFILE = "trainjob.yaml", "hostfile"
SAVING = ("--shutdown-timeout", str(SECONDS_TO_SAVE))
"""How long torchrun lets ranks finish their step and save when it is told to end; its own patience is 30 s."""


def commands(launch: Launch) -> list[str]:
    """One line for every node, or one that starts all; they are good once the stage's verb has prepared the job."""
    cluster, job_file = launch.cluster, str(launch.job_file)
    if cluster is None or cluster.launcher in ("local", "ray"):
        return [line(torchrun_command(launch.module, [job_file], launch.ranks))]
    if cluster.launcher == "slurm":
        return [line(["sbatch", str(launch.folder / _sbatch_file(launch))])]
    if cluster.launcher == "kubernetes":
        return [line(["kubectl", "apply", "-f", str(launch.folder / TRAINJOB)])]
    if cluster.launcher == "deepspeed":
        return _deepspeed(cluster, launch)
    return _torchrun(cluster, launch)


def job_files(launch: Launch) -> dict[str, str]:
    """The files beside the job file that the commands name: what to write by name."""
    cluster, arguments = launch.cluster, _program(launch)
    if cluster is None:
        return {}
    if cluster.launcher == "slurm":
        return {_sbatch_file(launch): sbatch(cluster, launch, _interpreter(cluster), arguments)}
    if cluster.launcher == "kubernetes":
        return {TRAINJOB: trainjob(cluster, launch, [*SAVING, *arguments])}
    if cluster.launcher == "deepspeed" and cluster.hosts:
        return {HOSTFILE: hostfile_text(cluster.hosts, cluster.gpus_per_node)}
    return {}


def names_for_commands(launch: Launch) -> tuple[str, ...]:
    """Of the files in the launch's folder that only the commands need, whoever the launcher is."""
    return JOB_FILE, _sbatch_file(launch), TRAINJOB, HOSTFILE


def _sbatch_file(launch: Launch) -> str:
    return f"{launch.stage}.sbatch"


def _program(launch: Launch) -> list[str]:
    return ["--module", launch.module, str(launch.job_file)]


def _interpreter(cluster: ClusterConfig, module: str = "torch.distributed.run") -> list[str]:
    return [cluster.python or sys.executable, "-m", module]


def _torchrun(cluster: ClusterConfig, launch: Launch) -> list[str]:
    """torchrun on every node: with its number (static), or without (c10d)."""
    meeting = cluster.rendezvous or Rendezvous(endpoint="127.0.0.1:29400")  # one node meets itself
    host, port = meeting.endpoint.rsplit(":", 1)
    common = [
        *_interpreter(cluster), "--nnodes", str(cluster.nodes), "--nproc-per-node", str(cluster.gpus_per_node),
        *SAVING,
    ]  # fmt: skip
    program = _program(launch)
    if meeting.kind == "static":
        ways = [
            ["--node-rank", str(node), "--master-addr", host, "--master-port", port, *_address(cluster, node)]
            for node in range(cluster.nodes)
        ]
        return [line([*common, *way, *program], note=_where(cluster, node)) for node, way in enumerate(ways)]
    elastic = [
        "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting.endpoint, "--rdzv-id", launch.name,
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


def _deepspeed(cluster: ClusterConfig, launch: Launch) -> list[str]:
    """DeepSpeed's launcher: once where it has ssh, else on every node."""
    file = Path(cluster.hostfile) if cluster.hostfile else launch.folder / HOSTFILE
    hosts = cluster.hosts or tuple(read_hostfile(file, launch.stage))
    meeting: list[str] = []
    if cluster.rendezvous:
        host, port = cluster.rendezvous.endpoint.rsplit(":", 1)
        meeting = ["--master_addr", host, "--master_port", port]
    start = [*_interpreter(cluster, "deepspeed.launcher.runner"), "--hostfile", str(file), *meeting]
    program = ["--no_local_rank", *_program(launch)]
    if starts_by_ssh(cluster):
        return [line([*start, *program], note=say("on_host", host=hosts[0]))]
    return [
        line([*start, "--no_ssh", "--node_rank", str(node), *program], note=say("on_host", host=host))
        for node, host in enumerate(hosts)
    ]
