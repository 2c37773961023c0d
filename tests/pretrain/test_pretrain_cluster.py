"""One recipe on many machines: the commands and job files for every launcher, and what is refused.

The documented files stand in golden/; after a change that is meant, EASYLLM_WRITE_GOLDEN=1 writes them anew.
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters import CLUSTERS, HOSTS, NO_SSH, STATIC, cluster_of
from easyllm.core.cluster import ClusterConfig
from easyllm.core.nodes.commands import commands, job_files
from easyllm.core.stage import Job
from easyllm.pretrain.checks import check
from easyllm.pretrain.config import PretrainConfig
from easyllm.pretrain.nodes import launch_of
from tiny_megatron import pretrain_config

GOLDEN = Path(__file__).parent / "golden"


def job_of(name: str, device: str = "auto", out: str = "/data/runs/two nodes/pretrain.partial") -> Job[PretrainConfig]:
    """A job as the pipeline makes it, on paths that are not there: everything looked at here is pure."""
    cluster = cluster_of(name)
    config = PretrainConfig.model_validate(pretrain_config(ranks=cluster.ranks, device=device))
    path = Path(out)
    return Job("pretrain", config, {}, 1, "Two_nodes", path.parent, path.parent, path, cluster)


@pytest.mark.parametrize("name", CLUSTERS)
def test_commands_and_job_files_are_the_documented_ones(name: str) -> None:
    job = job_of(name)
    parts = [f"$ {command}" for command in commands(launch_of(job))]
    parts += [f"==> {file} <==\n{text}" for file, text in job_files(launch_of(job)).items()]
    text = ("\n".join(parts) + "\n").replace(sys.executable, "python")
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("EASYLLM_WRITE_GOLDEN"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")
    assert check(job) == []


def test_every_command_is_one_that_a_shell_splits_as_it_is_meant() -> None:
    for name in CLUSTERS:
        for command in commands(launch_of(job_of(name))):
            words = shlex.split(command, comments=True)
            assert words[-1].startswith("/data/runs/two nodes/pretrain.partial/"), name


def test_the_sbatch_file_has_nothing_that_bash_or_shellcheck_mind(tmp_path: Path) -> None:
    for device in ("auto", "cpu"):
        (text,) = job_files(launch_of(job_of("slurm", device))).values()
        assert ("--gpus-per-node" in text) == (device == "auto")
        file = tmp_path / "job.sbatch"
        file.write_text(text)
        subprocess.run(["bash", "-n", file], check=True)
        checker = Path(sys.executable).with_name("shellcheck")
        done = subprocess.run(
            [checker, "--shell=bash", "-e", "SC1091", file], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, "")


def test_the_sbatch_file_starts_one_torchrun_a_node(tmp_path: Path) -> None:
    """Run by bash with stand-ins for Slurm's own programs: what srun is given is what every node runs."""
    (text,) = job_files(launch_of(job_of("slurm", out=str(tmp_path / "run" / "pretrain.partial")))).values()
    programs = {"scontrol": "printf 'node-a\\nnode-b\\n'", "srun": 'printf "%s\\n" "$@"', "module": "true"}
    for program, body in programs.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / program).chmod(0o755)
    (tmp_path / "activate").write_text("")
    text = text.replace("/data/venv/bin/activate", str(tmp_path / "activate"))
    env = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "20041", "SLURM_JOB_NODELIST": "node-[a-b]",
    }  # fmt: skip
    done = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[words.index("--rdzv-endpoint") + 1] == "node-a:20041"
    assert words[words.index("--rdzv-id") + 1] == "20041"
    assert words[-2:] == ["easyllm.pretrain.train", str(tmp_path / "run" / "pretrain.partial" / "job.json")]


def test_the_trainjob_has_the_shape_of_kubeflows_schema() -> None:
    """Field by field as trainer.kubeflow.org/v1alpha1 has it since Kubeflow Trainer 2.2 (runtimePatches)."""
    (text,) = job_files(launch_of(job_of("kubernetes"))).values()
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["metadata"] == {"name": "easyllm-two-nodes", "namespace": "ml"}
    spec = job["spec"]
    assert set(spec) == {"runtimeRef", "trainer", "runtimePatches"}
    trainer = spec["trainer"]
    assert set(trainer) == {"image", "numNodes", "numProcPerNode", "resourcesPerNode", "command", "args"}
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 2)
    assert trainer["resourcesPerNode"] == {"limits": {"nvidia.com/gpu": "2"}}
    (patch,) = spec["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (replicated["name"], container["name"]) == ("node", "node")
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    (on_cpu,) = job_files(launch_of(job_of("kubernetes", "cpu"))).values()
    assert "resourcesPerNode" not in on_cpu


@pytest.mark.parametrize(
    ("code", "text", "cluster"),
    [
        ("CLUSTER-001", "cluster.nodes is not for launcher local", {"launcher": "local", "nodes": 2}),
        ("CLUSTER-001", "cluster.slurm is not for launcher ray", {"launcher": "ray", "slurm": {}}),
        ("CLUSTER-003", "no pretraining", {"launcher": "ray"}),
        ("CLUSTER-004", "each are 6, and pretrain.ranks is 4", {"launcher": "slurm", "nodes": 2, "gpus_per_node": 3}),
        ("CLUSTER-005", "do not know where to meet", {"launcher": "deepspeed", "nodes": 2, **HOSTS, **NO_SSH}),
        ("CLUSTER-006", "max_restarts 1", {"launcher": "torchrun", "nodes": 2, **STATIC, "max_restarts": 1}),
        ("CLUSTER-007", "(a, a)", {"launcher": "torchrun", "nodes": 2, **STATIC, "hosts": ["a", "a"]}),
        ("CLUSTER-008", "0 are set", {"launcher": "deepspeed", "nodes": 2}),
    ],
)  # fmt: skip
def test_a_mistake_in_the_cluster_is_named(code: str, text: str, cluster: dict[str, Any]) -> None:
    made = ClusterConfig.model_validate({"gpus_per_node": 2} | cluster)
    found = {p.code: str(p) for p in check(replace(job_of("slurm"), cluster=made))}
    assert code in found
    assert text in found[code]


def test_ranks_follow_the_cluster_and_help_tells_its_keys(easyllm: Any, tmp_path: Path) -> None:
    broken = (Path(__file__).parents[1] / "broken" / "CLUSTER-001.yaml").read_text("utf-8")
    text = broken.replace(
        "data/corpus-artifact", str(Path(__file__).parents[1] / "broken" / "data" / "corpus-artifact")
    )
    (tmp_path / "recipe.yaml").write_text(text)
    planned = json.loads(
        easyllm("plan", "recipe.yaml", "cluster.slurm=null", "cluster.gpus_per_node=2", "--json").stdout
    )
    (stage,) = planned["stages"]
    assert stage["figures"]["ranks"] == 4
    assert [c.split("  # ")[1] for c in stage["commands"]] == ["on node 0", "on node 1"]
    assert "cluster.rendezvous.endpoint" in easyllm("pretrain", "--help").stdout
