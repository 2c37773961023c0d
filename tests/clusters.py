"""A recipe's cluster for every launcher, on two nodes with two ranks each."""

from typing import Any

from easyllm.core.cluster import ClusterConfig

STATIC = {"rendezvous": {"endpoint": "node-a:29400"}}
ELASTIC = {"rendezvous": {"endpoint": "node-a:29400", "kind": "c10d"}, "max_restarts": 3}
HOSTS = {"hosts": ["node-a", "node-b"]}
NO_SSH = {"deepspeed": {"ssh": False}}
KUBERNETES = {"kubernetes": {"image": "easyllm:gpu", "claim": "training", "mount": "/data", "namespace": "ml"}}
SLURM = {
    "partition": "gpu",
    "account": "lab 7",
    "time": "2-00:00:00",
    "constraint": "h100",
    "options": ["--exclusive"],
    "setup": ["module load cuda", "source /data/venv/bin/activate"],
}
CLUSTERS: dict[str, dict[str, Any]] = {
    "local": {"launcher": "local"},
    "torchrun-static": {"launcher": "torchrun", **STATIC},
    "torchrun-static-hosts": {"launcher": "torchrun", **STATIC, **HOSTS},
    "torchrun-elastic": {"launcher": "torchrun", **ELASTIC},
    "torchrun-elastic-hosts": {"launcher": "torchrun", **ELASTIC, **HOSTS},
    "deepspeed": {"launcher": "deepspeed", **HOSTS},
    "deepspeed-no-ssh": {"launcher": "deepspeed", **HOSTS, **STATIC, **NO_SSH},
    "slurm": {"launcher": "slurm", "slurm": SLURM, "max_restarts": 2},
    "kubernetes": {"launcher": "kubernetes", **KUBERNETES},
}


def cluster_of(name: str) -> ClusterConfig:
    size = {"gpus_per_node": 2} if name == "local" else {"nodes": 2, "gpus_per_node": 2}
    python = {"python": "/data/venv/bin/python"} if name not in ("local", "kubernetes") else {}
    return ClusterConfig.model_validate(size | python | CLUSTERS[name])
