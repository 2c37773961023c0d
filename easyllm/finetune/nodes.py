"""Whether finetuning needs ranks of their own, what they run, and how their job is called on a cluster."""

from easyllm.core import cluster as clusters
from easyllm.core.errors import Problem
from easyllm.core.messages import say
from easyllm.core.nodes import checks
from easyllm.core.nodes.launch import Launch
from easyllm.core.stage import Job
from easyllm.finetune.config import FinetuneConfig

FOLDER, OUTCOME, BEATS = ".ranks", "outcome.json", ".heartbeat"
"""In the stage's folder where the job file stands; and beside that file what the ranks leave."""
TIMEOUT_SECONDS = 1800.0
"""A rank that does no pass for so long is taken for hung."""


def alone(config: FinetuneConfig) -> bool:
    """Whether training needs no process but one."""
    return config.ranks == 1 and config.engine == "ddp"


def launch_of(job: Job[FinetuneConfig]) -> Launch:
    """The ranks, with a folder of their own for all that only they need."""
    folder = job.out / FOLDER
    return Launch(
        job=job,
        module="easyllm.finetune.train",
        title="Finetuning",
        folder=folder,
        outcome=folder / OUTCOME,
        beats=folder / BEATS,
        timeout_seconds=TIMEOUT_SECONDS,
        inputs=say("the_base"),
        suffix="-finetune",
    )


def check(job: Job[FinetuneConfig]) -> list[Problem]:
    """Everything wrong with the recipe's cluster, for finetuning. Ray has no ranks: it is done here beside it."""
    if job.cluster is not None and job.cluster.launcher == "ray":
        return clusters.check(job.cluster, job.stage)
    base = job.inputs["base"].path
    # Not a .gguf: what the ranks read is made of it beside the runs. Nor the rows, which they get as tokens.
    return checks.check(launch_of(job), [base] if base and base.suffix != ".gguf" else [])
