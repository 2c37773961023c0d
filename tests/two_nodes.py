"""Two nodes on one machine: two network namespaces, each with its own address and host name, joined by a cable."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tiny_megatron import REPOSITORY

INTERFACE = "lan0"
ADDRESSES = ("10.213.7.1", "10.213.7.2")
HOSTS = ("node-a", "node-b")


def why_not() -> str | None:
    """Why this machine has no namespaces for us; None where it has."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "the programs ip and unshare (iproute2, util-linux) are not installed"
    name = f"easyllm-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    try:
        cable = ["ip", "link", "add", INTERFACE, "netns", name, "type", "veth", "peer", "name", "lan1", "netns", name]
        laid = subprocess.run(cable, capture_output=True, text=True, check=False)
        return f"virtual cables are not allowed here: {laid.stderr.strip()}" if laid.returncode else None
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


class TwoNodes:
    """The namespaces; ``start`` runs a line of shell on one of the nodes as a person there would."""

    def __init__(self) -> None:
        self._names = tuple(f"easyllm-{os.getpid()}-{host}" for host in HOSTS)
        self._started: list[subprocess.Popen[bytes]] = []

    def lay(self) -> None:
        for name in self._names:
            _ip("netns", "add", name)
        a, b = self._names
        _ip("link", "add", INTERFACE, "netns", a, "type", "veth", "peer", "name", INTERFACE, "netns", b)
        for name, address in zip(self._names, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", INTERFACE)
            for link in (INTERFACE, "lo"):
                _ip("-n", name, "link", "set", link, "up")

    def start(self, node: int, line: str, log: Path, before: str = "true") -> "subprocess.Popen[bytes]":
        """The line on node 0 or 1, its output in ``log``; ``before`` runs first, in the node's own mounts."""
        script = f"hostname {HOSTS[node]} && {before} && exec env {line}"  # the process is the launcher itself
        command = ["ip", "netns", "exec", self._names[node], "unshare", "--uts", "--mount", "bash", "-c", script]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "DS_ACCELERATOR": "cpu"}
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self._started.append(process)
        return process

    def clear(self) -> None:
        for process in self._started:
            kill(process)
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """What a power cut does to a node: the launcher and all its ranks at once."""
    if process.poll() is None:
        everyone = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        for child in everyone:
            if child.is_running():
                child.kill()
        psutil.wait_procs(everyone, timeout=20)
    process.wait()


def kill_launcher(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Kill the launcher alone; gives the ranks that are still there after ten seconds without it."""
    ranks = psutil.Process(process.pid).children(recursive=True)
    assert ranks, "nothing was started"
    process.kill()
    process.wait()
    return psutil.wait_procs(ranks, timeout=10)[1]


def wait(processes: "list[subprocess.Popen[bytes]]", seconds: float) -> list[int]:
    """Their exit codes, once all have ended."""
    deadline = time.monotonic() + seconds
    return [process.wait(max(1.0, deadline - time.monotonic())) for process in processes]


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    nodes = TwoNodes()
    try:
        nodes.lay()
        yield nodes
    finally:
        nodes.clear()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
