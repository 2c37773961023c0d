"""What this machine can run, what it cannot, and the fix. Asks files and commands, never torch.

The tests feed it recorded machines; ``examine`` feeds it this one.
"""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from rich.cells import cell_len, set_cell_size

from easyllm.core.messages import say, term
from easyllm.core.models import cpu_flags
from easyllm.core.workplace import human_bytes

Verdict = Literal["good", "care", "missing"]
NEEDED = ("torch", "megatron-core", "transformers", "peft", "starlette", "openai")
DEMO_MEMORY_BYTES = 8_000_000_000
DEMO_DISK_BYTES = 6_000_000_000
MIB = 1 << 20


@dataclass(frozen=True)
class Machine:
    """The facts the verdicts rest on, nothing interpreted yet."""

    system: str
    """platform.system(): Linux, Darwin, Windows."""
    wsl: bool
    python: str
    cores: int
    memory_bytes: int
    disk_free_bytes: int
    shm_bytes: int | None
    """Size of /dev/shm; None where there is none."""
    cpu_bf16: bool
    gpus: tuple[str, ...]
    """One line a GPU: name, memory, compute capability, driver."""
    docker: str | None
    """Version of the Docker engine; None when the client or the engine does not answer."""
    packages: dict[str, str]
    """Installed version of each needed package."""
    pins: dict[str, str]
    """Pinned version of each needed package; empty outside a checkout."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    value: str
    verdict: Verdict
    fix: str
    """What to do; empty when nothing is to be done."""


def examine() -> list[Finding]:
    return judge(this_machine())


def this_machine() -> Machine:
    return Machine(
        system=platform.system(),
        wsl="microsoft" in platform.uname().release.lower(),
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        disk_free_bytes=shutil.disk_usage(Path.cwd()).free,
        shm_bytes=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else None,
        cpu_bf16=bool({"avx512_bf16", "amx_bf16"} & cpu_flags()),
        gpus=_gpus(),
        docker=_answer(["docker", "version", "--format", "{{.Server.Version}}"]),
        packages={name: found for name in NEEDED if (found := _installed(name))},
        pins=_pins(),
    )


def judge(machine: Machine) -> list[Finding]:
    """The verdicts, pure: the same machine gives the same report."""
    return [
        _system(machine),
        _finding("python", machine.python, "good" if _supported(machine.python) else "missing", "fix_python"),
        _finding("cores", str(machine.cores), "good" if machine.cores >= 2 else "care", "fix_cores"),
        _sized("memory", machine.memory_bytes, DEMO_MEMORY_BYTES, "fix_memory"),
        _sized("disk", machine.disk_free_bytes, DEMO_DISK_BYTES, "fix_disk"),
        _shared_memory(machine),
        _gpu(machine),
        _dtype(machine),
        _finding("docker", machine.docker or "-", "good" if machine.docker else "care", "fix_docker"),
        *[_package(machine, name) for name in NEEDED],
    ]


def _system(machine: Machine) -> Finding:
    windows = machine.system == "Windows"
    name = f"{machine.system} (WSL2)" if machine.wsl else machine.system
    return _finding("system", name, "missing" if windows else "good", "fix_windows")


def _shared_memory(machine: Machine) -> Finding:
    if machine.shm_bytes is None:
        return Finding("/dev/shm", "-", "good", "")
    small = machine.shm_bytes <= 64 * MIB
    return _finding("/dev/shm", human_bytes(machine.shm_bytes), "care" if small else "good", "fix_shm")


def _gpu(machine: Machine) -> Finding:
    if machine.gpus:
        return Finding("gpu", "; ".join(machine.gpus), "good", "")
    return Finding("gpu", "-", "care", say("doctor_no_gpu"))


def _dtype(machine: Machine) -> Finding:
    if machine.gpus or machine.cpu_bf16:
        return Finding("bf16", say("doctor_yes"), "good", "")
    return Finding("bf16", "-", "care", say("doctor_no_bf16"))


def _package(machine: Machine, name: str) -> Finding:
    here, pinned = machine.packages.get(name), machine.pins.get(name)
    if here is None:
        return Finding(name, "-", "missing", say("fix_package"))
    if pinned and here.split("+")[0] != pinned:
        return Finding(name, here, "care", say("fix_pin", pinned=pinned))
    return Finding(name, here, "good", "")


def _sized(name: str, have: int, want: int, fix: str) -> Finding:
    enough = have >= want
    return _finding(name, human_bytes(have), "good" if enough else "care", fix, wanted=human_bytes(want))


def _finding(name: str, value: str, verdict: Verdict, fix: str, **params: Any) -> Finding:
    return Finding(name, value, verdict, "" if verdict == "good" else say(fix, **params))


def _supported(python: str) -> bool:
    return python.split(".")[:2] in (["3", "11"], ["3", "12"], ["3", "13"])


def document(findings: list[Finding]) -> dict[str, Any]:
    """{"findings": [...], "abilities": {...}} for ``--json``."""
    return {"findings": [vars(entry) for entry in findings], "abilities": abilities(findings)}


def abilities(findings: list[Finding]) -> dict[str, bool]:
    """What this machine can run: the whole pipeline on its CPU, on GPUs, in the container."""
    verdict = {entry.name: entry.verdict for entry in findings}
    packages = all(verdict[name] != "missing" for name in NEEDED)
    here = verdict["system"] != "missing" and verdict["python"] != "missing" and packages
    return {
        "pipeline_on_cpu": here,
        "pipeline_on_gpu": here and verdict["gpu"] == "good",
        "container": verdict["docker"] == "good",
    }


def text(findings: list[Finding]) -> str:
    """One line a finding, fixes below their finding, then what can run."""
    marks = {"good": "✓", "care": "!", "missing": "✗"}
    width = max(cell_len(term(entry.name)) for entry in findings)
    lines = []
    for entry in findings:
        lines.append(f"{marks[entry.verdict]} {set_cell_size(term(entry.name), width)}  {entry.value}")
        if entry.fix:
            lines.append(f"  {'':<{width}}  → {entry.fix}")
    lines.append("")
    for name, able in abilities(findings).items():
        lines.append(f"{marks['good' if able else 'missing']} {say('ability_' + name)}")
    return "\n".join(lines) + "\n"


def _memory_bytes() -> int:
    names = os.sysconf_names
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def _gpus() -> tuple[str, ...]:
    query = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,compute_cap,driver_version",
        "--format=csv,noheader",
    ]
    answer = _answer(query)
    return tuple(answer.splitlines()) if answer else ()


def _answer(command: list[str]) -> str | None:
    """What a command prints, or None when it is not there, fails or does not answer within ten seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _pins() -> dict[str, str]:
    from easyllm.env.bootstrap import PINS, python_pins, read_pins

    return dict(python_pins(read_pins(PINS))) if Path(PINS).is_file() else {}
