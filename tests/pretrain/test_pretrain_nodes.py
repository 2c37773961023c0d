"""Pretraining over two nodes: the printed commands, run by hand in two network namespaces, gloo between them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import two_nodes
from easyllm.core.artifact import read_manifest
from easyllm.pretrain import checkpoints, losses
from tiny_megatron import RUNS, pretrain_config, shared_corpus, trained
from two_nodes import ADDRESSES, INTERFACE, TwoNodes, kill, kill_launcher, wait

WHY_NOT = two_nodes.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")]

ENGINES = {"megatron": "llama", "deepspeed": "zero"}
"""One of RUNS for every engine: two ranks, dropout, a checkpoint every 20 of 60 steps."""
MEETING = f"{ADDRESSES[0]}:29411"
LAUNCHERS: dict[str, dict[str, Any]] = {
    "static": {"launcher": "torchrun", "rendezvous": {"endpoint": MEETING}},
    "elastic": {"launcher": "torchrun", "rendezvous": {"endpoint": MEETING, "kind": "c10d"}, "max_restarts": 3},
}
OTHERWISE = ("cluster.launcher=deepspeed", "cluster.deepspeed.ssh=false")
"""What a person adds to the command line to go on under DeepSpeed's launcher."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with two_nodes.two_nodes() as made:
        yield made


class Run:
    """One recipe on the two nodes: what ``easyllm pretrain`` says of it, and its nodes' processes."""

    def __init__(self, easyllm: Any, nodes: TwoNodes, corpus: Path, at: Path, launcher: str, name: str) -> None:
        self._easyllm, self._nodes, self._at = easyllm, nodes, at
        cluster = LAUNCHERS[launcher] | {"nodes": 2, "hosts": list(ADDRESSES), "interface": INTERFACE}
        section = pretrain_config(**RUNS[name]) | {"corpus": str(corpus)}
        recipe = {"name": "two", "runs_dir": str(at / "runs"), "cluster": cluster, "pretrain": section}
        (at / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        self.commands: list[str] = self.ask(expect=3)["waiting"]["commands"]

    def ask(self, expect: int, *overrides: str) -> Any:
        """What ``easyllm pretrain`` answers."""
        done = self._easyllm("pretrain", self._at / "recipe.yaml", *overrides, "--json", expect=expect)
        return json.loads(done.stdout)

    def let_beats_grow_old(self) -> None:
        """As if the ranks had fallen silent an hour ago: nobody waits in a test until their word is old."""
        for path in (self.partial / ".heartbeat").glob("rank-*.json"):
            beat = json.loads(path.read_text("utf-8"))
            path.write_text(json.dumps(beat | {"time": beat["time"] - 3600}), "utf-8")

    def start(self, node: int, before: str = "true") -> Any:
        return self._nodes.start(node, self.commands[node], self.log(node), before)

    def log(self, node: int) -> Path:
        return self._at / f"node-{node}.log"

    @property
    def partial(self) -> Path:
        return self._at / "runs" / "two" / "pretrain.partial"

    @property
    def artifact(self) -> Path:
        return self._at / "runs" / "two" / "pretrain"

    def reach(self, rows: int, *processes: Any) -> None:
        """Wait until so many steps are done and a checkpoint is there: it is written while training goes on."""
        deadline = time.monotonic() + 120

        def there() -> bool:
            kept = checkpoints.newest(self.partial / "checkpoints")
            return kept is not None and len(losses.read(self.partial / "losses.csv")) >= rows

        while not there() and time.monotonic() < deadline:
            assert [p.poll() for p in processes] == [None] * len(processes), self.told()
            time.sleep(0.005)

    def told(self) -> str:
        return "\n".join(self.log(node).read_text("utf-8", "replace")[-3000:] for node in (0, 1))


def curve(directory: Path) -> list[float]:
    return [row.loss for row in losses.read(directory / "losses.csv")]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_node_is_started_again_and_the_nodes_that_are_left_meet_it(
    engine: str, easyllm: Any, nodes: TwoNodes, base: Path, tmp_path: Path
) -> None:
    run = Run(easyllm, nodes, shared_corpus(base), tmp_path, "elastic", ENGINES[engine])
    first, second = run.start(0), run.start(1)
    run.reach(25, first, second)
    kill(second)
    again = run.start(1)
    assert wait([first, again], 180) == [0, 0], run.told()
    run.ask(expect=0)
    assert curve(run.artifact) == curve(trained(base, ENGINES[engine]))
    assert "going on after step 20 of 60" in run.log(0).read_text("utf-8")


@pytest.mark.parametrize("engine", ["deepspeed"])  # the way is the same for both, and it takes long
def test_after_a_killed_launcher_both_nodes_go_on_where_they_were_under_another_launcher_too(
    engine: str, easyllm: Any, nodes: TwoNodes, base: Path, tmp_path: Path
) -> None:
    run = Run(easyllm, nodes, shared_corpus(base), tmp_path, "static", ENGINES[engine])
    first, second = run.start(0), run.start(1)
    run.reach(25, first, second)
    assert kill_launcher(second) == []
    assert wait([first], 90) != [0]
    run.let_beats_grow_old()
    run.commands = run.ask(3, *OTHERWISE)["waiting"]["commands"]
    assert "deepspeed.launcher.runner" in run.commands[0]
    assert wait([run.start(0), run.start(1)], 180) == [0, 0], run.told()
    run.ask(expect=0)
    assert curve(run.artifact) == curve(trained(base, ENGINES[engine]))
    manifest = read_manifest(run.artifact)
    assert manifest is not None
    assert not {entry["path"] for entry in manifest.outputs} & {"job.json", "hostfile"}


def test_a_node_that_does_not_share_the_runs_folder_is_named(
    easyllm: Any, nodes: TwoNodes, base: Path, tmp_path: Path
) -> None:
    run = Run(easyllm, nodes, shared_corpus(base), tmp_path, "static", "data-parallel")
    hidden = f"mount -t tmpfs none {tmp_path / 'runs'}"
    assert 0 not in wait([run.start(0), run.start(1, before=hidden)], 120), run.told()
    told = run.log(0).read_text("utf-8")
    assert "CLUSTER-014" in told
    assert "or not its tokens: node-b." in told
