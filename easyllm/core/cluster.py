"""The recipe's top-level section ``cluster``: on which machines a stage works, and who starts it there."""

from typing import Annotated, Literal

from pydantic import Field

from easyllm.core.errors import Problem, problem
from easyllm.core.section import Section

Positive = Annotated[int, Field(ge=1)]


class Rendezvous(Section):
    """Where the nodes find each other."""

    endpoint: Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$")]
    """host:port of the first node, as every node reaches it; the port must be free there."""
    kind: Literal["static", "c10d"] = "static"
    """static: node 0 holds the endpoint and every node has its number; who dies is started again by hand.
    c10d: nodes number themselves, and after a loss they meet again (elastic; see max_restarts)."""


class DeepSpeedLauncher(Section):
    """How DeepSpeed's launcher reaches the nodes."""

    ssh: bool = True
    """true: one command on the first node starts the others through pdsh and ssh without a password.
    false: every node runs its own command (the launcher's --no_ssh); needs rendezvous."""


class Slurm(Section):
    """What the generated sbatch file asks of Slurm."""

    partition: str | None = None
    """Partition. Unset: the cluster's default."""
    account: str | None = None
    """Account to charge. Unset: the user's default."""
    time: str | None = None
    """Longest run, as sbatch takes it: minutes, hours:minutes:seconds or days-hours, in quotes: YAML reads 4:00:00 as a
    number. Unset: the partition's."""
    constraint: str | None = None
    """Features that the nodes must have."""
    options: tuple[Annotated[str, Field(pattern=r"^--?\S.*$")], ...] = ()
    """More options of sbatch, one an entry, such as --exclusive or --gres=gpu:h100:8."""
    setup: tuple[str, ...] = ()
    """Shell lines to run before the work: module load, activate a virtual environment."""


class Kubernetes(Section):
    """What the generated TrainJob of Kubeflow Trainer names."""

    image: str
    """Container image with easyllm, the same version as here."""
    namespace: str = "default"
    """Namespace of the TrainJob and of the claim."""
    claim: str
    """PersistentVolumeClaim, ReadWriteMany, that holds runs and corpus."""
    mount: Annotated[str, Field(pattern=r"^/.+")]
    """Where the claim is mounted in the containers: the same path at which it is mounted here."""
    runtime: str = "torch-distributed"
    """TrainingRuntime of the cluster; it must be one for torch."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name of the GPUs in the pods' limits; not asked for where the stage's device is cpu."""


class Ray(Section):
    """Where Ray is."""

    address: str = "auto"
    """Address of the Ray cluster. auto: the one that this machine belongs to."""


class ClusterConfig(Section):
    """On which machines the recipe's heavy stages work. They share one file system with the run's folder on it."""

    launcher: Literal["local", "torchrun", "deepspeed", "slurm", "kubernetes", "ray"] = "local"
    """Who starts the ranks. local: easyllm itself, here. torchrun and deepspeed: commands for every node, by hand.
    slurm and kubernetes: a generated job file. ray: cleaning a corpus only."""
    nodes: Positive = 1
    """Machines that train together."""
    gpus_per_node: Positive = 1
    """Ranks on each node, one a GPU (or CPU processes where the stage's device is cpu). nodes x gpus_per_node is the
    number of ranks: pretrain.ranks and finetune.ranks follow it when unset."""
    rendezvous: Rendezvous | None = None
    """Where nodes find each other (torchrun, and deepspeed without ssh)."""
    hosts: tuple[Annotated[str, Field(pattern=r"^\S+$")], ...] | None = None
    """Names or addresses of the nodes, first node first (torchrun, deepspeed)."""
    hostfile: str | None = None
    """File of lines `HOST slots=N` instead of hosts (deepspeed)."""
    interface: str | None = None
    """Network interface between the nodes, for gloo and NCCL, such as eth0 or ib0. Unset: they choose."""
    max_restarts: Annotated[int, Field(ge=0)] = 0
    """How often the nodes meet again after losing a rank or a node, from the newest checkpoint (torchrun with c10d,
    slurm)."""
    python: str | None = None
    """Python on the nodes. Unset: the one that runs easyllm, at the same path."""
    deepspeed: DeepSpeedLauncher | None = None
    """For launcher deepspeed."""
    slurm: Slurm | None = None
    """For launcher slurm."""
    kubernetes: Kubernetes | None = None
    """For launcher kubernetes, which needs it."""
    ray: Ray | None = None
    """For launcher ray."""

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus_per_node


MEANT_FOR = {
    "local": {"gpus_per_node"},
    "torchrun": {"nodes", "gpus_per_node", "rendezvous", "hosts", "interface", "max_restarts", "python"},
    "deepspeed": {
        "nodes", "gpus_per_node", "rendezvous", "hosts", "hostfile", "interface", "python", "deepspeed",
    },
    "slurm": {"nodes", "gpus_per_node", "interface", "max_restarts", "python", "slurm"},
    "kubernetes": {"nodes", "gpus_per_node", "interface", "kubernetes"},
    "ray": {"ray"},
}  # fmt: skip
"""The keys that each launcher reads; another one would be read and ignored."""


def check(cluster: ClusterConfig | None, stage: str) -> list[Problem]:
    """Keys of another launcher, and a section that the launcher cannot do without; for every stage that uses it."""
    if cluster is None:
        return []
    takes = MEANT_FOR[cluster.launcher]
    found = [
        problem(
            "CLUSTER-001", stage=stage, key=f"cluster.{key}", launcher=cluster.launcher, takes=", ".join(sorted(takes))
        )
        for key in sorted(cluster.model_fields_set - takes - {"launcher"})
        if getattr(cluster, key) is not None
    ]
    if cluster.launcher == "kubernetes" and cluster.kubernetes is None:
        found.append(problem("CLUSTER-002", stage=stage, key="cluster.launcher"))
    return found
