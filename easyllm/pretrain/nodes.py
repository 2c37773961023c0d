"""What pretraining has started on every node, and how its job is called there."""

from easyllm.core import cluster as clusters
from easyllm.core.errors import Problem, problem
from easyllm.core.messages import say
from easyllm.core.nodes import checks
from easyllm.core.nodes.launch import Launch
from easyllm.core.stage import Job
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.job import BEATS, OUTCOME


def launch_of(job: Job[PretrainConfig]) -> Launch:
    """The ranks, with the job file beside what they make."""
    return Launch(
        job=job,
        module="easyllm.pretrain.train",
        title="Pretraining",
        folder=job.out,
        outcome=job.out / OUTCOME,
        beats=job.out / BEATS,
        timeout_seconds=job.config.timeout_seconds,
        inputs=say("the_corpus"),
    )


def check(job: Job[PretrainConfig]) -> list[Problem]:
    """Everything wrong with the recipe's cluster, for pretraining."""
    # Not of a .gguf: what the ranks read is made of it beside the runs.
    read = [found.path for found in job.inputs.values() if found.path and found.path.suffix != ".gguf"]
    if job.cluster is not None and job.cluster.launcher == "ray":
        return [
            problem("CLUSTER-003", stage=job.stage, key="cluster.launcher"),
            *clusters.check(job.cluster, job.stage),
        ]
    return checks.check(launch_of(job), read)
