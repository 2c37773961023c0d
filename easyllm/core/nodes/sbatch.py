"""The job file for Slurm: one torchrun a node, started by srun."""

import shlex

from easyllm.core.cluster import ClusterConfig, Slurm
from easyllm.core.nodes.launch import Launch
from easyllm.core.shell import continued

SECONDS_TO_SAVE = 300
ASKED = ("partition", "account", "time", "constraint")


def sbatch(cluster: ClusterConfig, launch: Launch, torchrun: list[str], program: list[str]) -> str:
    """A file for sbatch that a person can read and change; ``torchrun`` starts with the interpreter."""
    asked, recipe = cluster.slurm or Slurm(), launch.job.recipe
    options = [
        f"--job-name=easyllm-{launch.name}",
        f"--nodes={cluster.nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={cluster.gpus_per_node}"] if launch.on_gpus else []),
        *[f"--{key}={shlex.quote(value)}" for key in ASKED if (value := getattr(asked, key))],
        f"--output={shlex.quote(str(launch.job.run_dir / f'{launch.stage}-%j.log'))}",
        "--open-mode=append",
        "--requeue",
        f"--signal=TERM@{SECONDS_TO_SAVE}",
        *asked.options,
    ]
    options_of_torchrun = [
        "--nnodes", str(cluster.nodes), "--nproc-per-node", str(cluster.gpus_per_node),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", '"${hosts[0]}:$port"', "--rdzv-id", '"$SLURM_JOB_ID"',
        "--max-restarts", str(cluster.max_restarts), "--shutdown-timeout", str(SECONDS_TO_SAVE),
        *map(shlex.quote, program),
    ]  # fmt: skip
    return "\n".join(
        [
            "#!/bin/bash",
            f"# {launch.title} of {recipe} on {cluster.nodes} nodes with {cluster.gpus_per_node} ranks each.",
            f"# {SECONDS_TO_SAVE} s before its time is up every rank finishes its step and saves.",
            "# Submitted or requeued again, this file goes on from the newest checkpoint.",
            *[f"#SBATCH {option}" for option in options],
            "set -euo pipefail",
            *asked.setup,
            'mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
            "port=$((20000 + SLURM_JOB_ID % 20000))",
            "# Ranks that are started again must not find what those before them left in torchrun's store.",
            "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
            continued(f"srun --kill-on-bad-exit=1 {shlex.join(torchrun)}", options_of_torchrun),
            "",
        ]
    )
