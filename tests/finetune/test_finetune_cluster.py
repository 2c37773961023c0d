"""Finetuning on many machines: commands and job files for every launcher, what is refused, and two nodes for real.

The documented files stand in golden/; after a change that is meant, EASYLLM_WRITE_GOLDEN=1 writes them anew.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from clusters import CLUSTERS, HOSTS, NO_SSH, STATIC, cluster_of
from easyllm.core import workplace
from easyllm.core.artifact import write_whole
from easyllm.core.cluster import ClusterConfig
from easyllm.core.errors import StageFailed, UserError, Waiting
from easyllm.core.inputs import Input
from easyllm.core.nodes.commands import commands, job_files
from easyllm.core.nodes.heartbeat import Heartbeat, read, write_hung
from easyllm.core.nodes.trainjob import job_name
from easyllm.core.stage import Job
from easyllm.finetune import nodes
from easyllm.finetune.config import FinetuneConfig
from easyllm.finetune.plan import plan
from easyllm.finetune.precision import choose, device_kind
from easyllm.finetune.run import run
from easyllm.finetune.work import Work
from tiny_tune import FINETUNE, check, make_job, tune, write_base, write_rows
from two_nodes import kill, wait

GOLDEN = Path(__file__).parent / "golden"
PATIENCE = 240
"""Seconds that two nodes may take on a machine with two cores where other tests run too."""


def job_of(name: str) -> Job[FinetuneConfig]:
    """A job as the pipeline makes it, on paths that are not there: everything looked at here is pure."""
    cluster = cluster_of(name)
    config = FinetuneConfig.model_validate(FINETUNE | {"ranks": cluster.ranks})
    out = Path("/data/runs/two nodes/finetune.partial")
    base = Input("base", "base", "model", Path("/data/base"))
    return Job("finetune", config, {"base": base}, 1, "Two_nodes", out.parent, out.parent, out, cluster)


@pytest.mark.parametrize("name", CLUSTERS)
def test_commands_and_job_files_are_the_documented_ones(name: str) -> None:
    launch = nodes.launch_of(job_of(name))
    parts = [f"$ {command}" for command in commands(launch)]
    parts += [f"==> {file} <==\n{text}" for file, text in job_files(launch).items()]
    text = ("\n".join(parts) + "\n").replace(sys.executable, "python")
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("EASYLLM_WRITE_GOLDEN"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")
    assert nodes.check(job_of(name)) == []
    for command in commands(launch):
        assert shlex.split(command, comments=True)[-1].startswith("/data/runs/two nodes/finetune.partial/.ranks/")


def test_a_long_recipe_name_does_not_give_two_stages_one_name_in_kubernetes() -> None:
    named = job_name("a" * 80, "-finetune")
    assert len(named) <= 63
    assert named.endswith("a-finetune")


@pytest.mark.parametrize(
    ("code", "text", "cluster"),
    [
        ("CLUSTER-001", "cluster.nodes is not for launcher local", {"launcher": "local", "nodes": 2}),
        ("CLUSTER-004", "each are 6, and finetune.ranks is 4", {"launcher": "slurm", "nodes": 2, "gpus_per_node": 3}),
        ("CLUSTER-005", "do not know where to meet", {"launcher": "deepspeed", "nodes": 2, **HOSTS, **NO_SSH}),
        ("CLUSTER-006", "max_restarts 1", {"launcher": "torchrun", "nodes": 2, **STATIC, "max_restarts": 1}),
        ("CLUSTER-008", "0 are set", {"launcher": "deepspeed", "nodes": 2}),
        (
            "CLUSTER-013", "/data/base is not below it",
            {"launcher": "kubernetes", "nodes": 2, "kubernetes": {"image": "i", "claim": "c", "mount": "/data/runs"}},
        ),
    ],
)  # fmt: skip
def test_a_mistake_in_the_cluster_is_named(code: str, text: str, cluster: dict[str, Any]) -> None:
    made = ClusterConfig.model_validate({"gpus_per_node": 2} | cluster)
    found = {p.code: str(p) for p in nodes.check(replace(job_of("slurm"), cluster=made))}
    assert code in found
    assert text in found[code]


def test_ray_cleans_the_corpus_and_finetuning_stays_here() -> None:
    ray = replace(job_of("local"), cluster=ClusterConfig(launcher="ray"))
    assert nodes.check(ray) == []
    assert "127.0.0.1" in commands(nodes.launch_of(ray))[0]


def test_a_machine_without_gpus_sends_jobs_to_some_with_them() -> None:
    config = FinetuneConfig.model_validate(FINETUNE)
    assert device_kind(config, sent=True) == "cuda"
    assert choose(config, "cuda", sent=True).value == "bfloat16"
    assert device_kind(config.model_copy(update={"device": "cpu"}), sent=True) == "cpu"


@pytest.fixture
def sent(tmp_path: Path) -> Job[FinetuneConfig]:
    """A job that two nodes are to do, nothing of it done."""
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    cluster = ClusterConfig.model_validate({"launcher": "torchrun", "nodes": 2, "rendezvous": {"endpoint": "a:29400"}})
    job = replace(make_job(tmp_path, "finetune", FINETUNE | {"ranks": 2, "device": "cpu"}), cluster=cluster)
    workplace.open_partial(job)
    return job


def waits(job: Job[FinetuneConfig]) -> Waiting:
    with pytest.raises(Waiting) as waiting:
        run(job)
    return waiting.value


def test_prepared_then_at_work_then_cut(sent: Job[FinetuneConfig]) -> None:
    prepared, launch = waits(sent), nodes.launch_of(sent)
    assert "finetune is prepared in" in prepared.told
    assert len(prepared.commands) == 2
    assert plan(sent).commands == prepared.commands
    pulse = Heartbeat(launch.beats, 0, 2, 1800)
    pulse.stop()
    pulse.moved(5)
    pulse._write()
    assert waits(sent).commands == []
    assert "finetune: step 5 of 12; the ranks are at work" in str(waits(sent))
    changed = replace(sent, seed=7)
    assert [p.code for p in check(changed)] == ["CLUSTER-017"]
    write_whole(launch.outcome, json.dumps({"stopped": True}))  # SIGTERM, say
    (sent.out / ".state").mkdir()
    (sent.out / ".state" / "step-00000004.pt").touch()
    assert waits(sent).commands == prepared.commands
    assert "step 4 of 12, and no rank is at work" in str(waits(sent))


def test_what_ended_the_ranks_elsewhere_is_told_here_and_how_to_begin_again(
    sent: Job[FinetuneConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    commands = waits(sent).commands
    launch = nodes.launch_of(sent)
    place = {"stage": "finetune", "key": "finetune.engine", "file": None, "line": None}
    refused = {"code": "TRAIN-035", "params": {"method": "qlora", "engine": "fsdp"} | place} | place
    write_whole(launch.outcome, json.dumps({"refused": [refused]}))
    with pytest.raises(UserError, match="TRAIN-035"):
        run(sent)
    assert commands[0] in capsys.readouterr().err
    launch.outcome.unlink()
    Heartbeat(launch.beats, 1, 2, 1800).stop()
    write_hung(launch.beats, read(launch.beats))
    with pytest.raises(StageFailed, match=r"TRAIN-038 .*rank 1 did not move for 1800 s at step 1"):
        run(sent)
    assert commands[0] in capsys.readouterr().err


def test_the_job_file_is_good_wherever_a_node_has_mounted_the_folder(sent: Job[FinetuneConfig], tmp_path: Path) -> None:
    waits(sent)
    job_file = nodes.launch_of(sent).job_file
    assert str(tmp_path) not in job_file.read_text("utf-8")
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-elsewhere"))
    try:
        work = Work.read(moved / job_file.relative_to(tmp_path))
        assert work.directory == moved / "base"
        assert work.state == moved / "run" / "finetune.partial" / ".state"
        assert len(work.train) == 16
    finally:
        moved.rename(tmp_path)


class TwoNodes:
    """One recipe, and the commands that ``easyllm finetune`` prints for its two nodes, started on this machine."""

    def __init__(self, easyllm: Any, at: Path, cluster: dict[str, Any], **section: Any) -> None:
        self._easyllm, self.at = easyllm, at
        write_base(at / "base")
        write_rows(at / "rows.jsonl")
        meeting = {"endpoint": f"127.0.0.1:{_free_port()}"} | cluster.get("rendezvous", {})
        recipe = {
            "name": "two", "runs_dir": str(at / "runs"), "cluster": cluster | {"nodes": 2, "rendezvous": meeting},
            "finetune": FINETUNE | {"device": "cpu"} | section,
        }  # fmt: skip
        (at / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        self.commands: list[str] = self.ask(3)["waiting"]["commands"]

    def ask(self, expect: int) -> Any:
        done = self._easyllm("finetune", self.at / "recipe.yaml", "--json", expect=expect)
        return json.loads(done.stdout)

    @contextmanager
    def started(self) -> "Iterator[list[subprocess.Popen[bytes]]]":
        env = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        lines = [["bash", "-c", f"exec env {line}"] for line in (self.commands * 2)[:2]]
        with (self.at / "nodes.log").open("ab") as log:
            how: dict[str, Any] = {"env": env, "stdout": log, "stderr": log, "start_new_session": True}
            processes = [subprocess.Popen(line, **how) for line in lines]
        try:
            yield processes
        finally:
            for process in processes:
                kill(process)

    @property
    def partial(self) -> Path:
        return self.at / "runs" / "two" / "finetune.partial"

    def told(self) -> str:
        """All of it: a launcher may end with pages about a peer that has gone first."""
        return (self.at / "nodes.log").read_text("utf-8", "replace")

    def let_beats_grow_old(self) -> None:
        """Nobody waits in a test until the last word of the ranks is old."""
        for beat in (self.partial / ".ranks" / ".heartbeat").glob("rank-*.json"):
            beat.write_text(json.dumps(json.loads(beat.read_text("utf-8")) | {"time": 0.0}), "utf-8")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def learnt(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "finetune" / "adapter_model.safetensors")


def test_two_nodes_that_were_cut_learn_what_one_process_learns(easyllm: Any, tmp_path: Path) -> None:
    nodes_of = TwoNodes(easyllm, tmp_path, {"launcher": "torchrun"})
    assert [line.split("  # ")[1] for line in nodes_of.commands] == ["on node 0", "on node 1"]
    with nodes_of.started() as processes:
        deadline = time.monotonic() + PATIENCE
        while not list((nodes_of.partial / ".state").glob("step-*.pt")):
            assert [process.poll() for process in processes] == [None, None], nodes_of.told()
            assert time.monotonic() < deadline, nodes_of.told()
            time.sleep(0.005)
    nodes_of.let_beats_grow_old()
    cut = nodes_of.ask(3)["waiting"]
    assert "no rank is at work" in cut["message"]
    assert cut["commands"] == nodes_of.commands
    with nodes_of.started() as processes:
        assert wait(processes, PATIENCE) == [0, 0], nodes_of.told()
    assert "going on after step" in nodes_of.told()
    nodes_of.ask(0)
    tune(tmp_path, device="cpu")
    alone = learnt(tmp_path / "run")
    for name, tensor in learnt(tmp_path / "runs" / "two").items():
        torch.testing.assert_close(tensor, alone[name], atol=1e-4, rtol=1e-3)
    assert not list((tmp_path / "runs" / "two" / "finetune").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cluster", "section"),
    [
        ({"launcher": "torchrun", "rendezvous": {"kind": "c10d"}, "max_restarts": 1}, {"engine": "fsdp"}),
        (
            {"launcher": "deepspeed", "deepspeed": {"ssh": False}, "hosts": ["localhost", "127.0.0.1"]},
            {"engine": "deepspeed", "deepspeed": {"zero": 2}},
        ),
    ],
)  # fmt: skip
def test_every_launcher_and_engine_ends_with_what_one_process_learns(
    easyllm: Any, tmp_path: Path, cluster: dict[str, Any], section: dict[str, Any]
) -> None:
    nodes_of = TwoNodes(easyllm, tmp_path, cluster, **section)
    with nodes_of.started() as processes:
        assert wait(processes, PATIENCE) == [0, 0], nodes_of.told()
    nodes_of.ask(0)
    tune(tmp_path, device="cpu")
    alone = learnt(tmp_path / "run")
    for name, tensor in learnt(tmp_path / "runs" / "two").items():
        torch.testing.assert_close(tensor, alone[name], atol=1e-3, rtol=1e-3)
