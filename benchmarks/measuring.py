"""What the benchmarks share: CPU time and peak memory of a command, and the machine that it ran on."""

import os
import platform
import subprocess
import threading
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import psutil

ENVIRONMENT = os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
MEGA = 1_000_000


def measure(command: Sequence[str], work: Path, output: Path | None = None) -> tuple[float, int]:
    """(CPU seconds of the command and all its children, most resident memory of them together)."""
    log = work / "log.txt"
    with log.open("w") as errors, (output or work / "output.txt").open("w") as printed:
        process = subprocess.Popen(command, cwd=work, env=ENVIRONMENT, stdout=printed, stderr=errors)
        peak: list[int] = [0]
        watcher = threading.Thread(target=watch, args=(process.pid, peak))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{command}\n{log.read_text()}")
    return usage.ru_utime + usage.ru_stime, peak[0]


def watch(pid: int, peak: list[int]) -> None:
    """Sum the resident memory of a process and its descendants every 20 ms until it has ended."""
    try:
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            resident = 0
            for member in (process, *process.children(recursive=True)):
                try:
                    resident += member.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak[0] = max(peak[0], resident)
            time.sleep(0.02)
    except psutil.NoSuchProcess:
        return


def versions(*packages: str) -> list[str]:
    """Name and version of each."""
    return [f"{name} {metadata.version(name)}" for name in packages]


def machine(packages: Sequence[str]) -> str:
    """What the figures were taken on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "?")
    memory = psutil.virtual_memory().total / 2**30
    python = f"Python {platform.python_version()}"
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}; {python}, {', '.join(packages)}"
