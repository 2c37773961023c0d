"""The job file for Kubernetes: a TrainJob of Kubeflow Trainer, whose torch runtime tells torchrun where it is."""

import re
from typing import Any

from easyllm.core.cluster import ClusterConfig
from easyllm.core.nodes.launch import Launch

HEAD = """\
# Kubeflow Trainer 2.2 or later. The runtime sets PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and their like, which
# torchrun reads. To go on from the newest checkpoint: kubectl replace --force -f THIS_FILE
"""
POD = "node"
"""Name of the job and of the container in the runtimes for torch."""


def trainjob(cluster: ClusterConfig, launch: Launch, arguments: list[str]) -> str:
    """The YAML document; ``arguments`` are torchrun's, what it starts included."""
    import yaml

    asked = cluster.kubernetes
    assert asked is not None
    trainer: dict[str, Any] = {
        "image": asked.image,
        "numNodes": cluster.nodes,
        "numProcPerNode": cluster.gpus_per_node,
        "command": ["python", "-m", "torch.distributed.run"],
        "args": arguments,
    }
    if launch.on_gpus:
        trainer["resourcesPerNode"] = {"limits": {asked.gpu_resource: str(cluster.gpus_per_node)}}
    jobs = {"replicatedJobs": [_volumes(asked.claim, asked.mount)]}
    document = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": job_name(launch.job.recipe, launch.suffix), "namespace": asked.namespace},
        "spec": {
            "runtimeRef": {"name": asked.runtime},
            "trainer": trainer,
            "runtimePatches": [{"manager": "easyllm", "trainingRuntimeSpec": {"template": {"spec": jobs}}}],
        },
    }
    return HEAD + yaml.safe_dump(document, sort_keys=False, width=1000)


def job_name(recipe: str, suffix: str = "") -> str:
    """A DNS label of the recipe's name, as Kubernetes wants it; the suffix is never what is cut off."""
    return ("easyllm-" + re.sub(r"[^a-z0-9]+", "-", recipe.lower()))[: 63 - len(suffix)].strip("-") + suffix


def _volumes(claim: str, mount: str) -> dict[str, Any]:
    """The shared claim, and memory for what the ranks of a node say to each other: a pod has 64 MB of it else."""
    pod = {
        "volumes": [
            {"name": "runs", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
        "containers": [
            {
                "name": POD,
                "volumeMounts": [
                    {"name": "runs", "mountPath": mount},
                    {"name": "shared-memory", "mountPath": "/dev/shm"},
                ],
            }
        ],
    }
    return {"name": POD, "template": {"spec": {"template": {"spec": pod}}}}
