"""Ask this machine: what its commands print, its files say, its disks hold. Nothing is interpreted here.

``python -m easyllm.env.observe`` prints the record as JSON: a new profile for tests/env/machines, or the facts of a
bug report.
"""

import contextlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from easyllm.env.bootstrap import PINS, read_pins
from easyllm.env.passport import PASSPORT

GPUS = "nvidia-smi --query-gpu=name,memory.total,compute_cap,driver_version --format=csv,noheader"
GPUS_OF_OLD = "nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader"
"""For an nvidia-smi that does not know compute_cap (470 and older)."""
DOCKER_VERSION = "docker version --format '{{json .}}'"
DOCKER_ROOT = "docker info --format '{{.DockerRootDir}}'"
RUNTIMES = "docker info --format '{{range $name, $_ := .Runtimes}}{{println $name}}{{end}}'"
DEVICES = "docker info --format '{{json .DiscoveredDevices}}'"
"""CDI devices; a client older than 28.2 does not know the field and fails."""
DOCKER_IMAGES = "docker images --filter 'reference=easyllm-*' --format '{{.Repository}}:{{.Tag}}'"
BUILDX = "docker buildx version"
COMPOSE = "docker compose version --short"
TOOLKIT = "nvidia-ctk --version"
WSL = "wsl.exe --list --verbose"
COMMIT = "git rev-parse HEAD"

IMAGES = ("easyllm-train:cuda", "easyllm-train:cpu", "easyllm-serving:cuda", "easyllm-serving:cpu")
NEEDED = ("torch", "megatron-core", "transformers", "peft", "starlette", "openai")
"""What the pipeline cannot do without; where one is missing, the environment was not set up."""
FILES = (
    "/etc/os-release",
    "/proc/cpuinfo",
    "/proc/self/limits",
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
PROGRAMS = ("nvidia-container-runtime-hook", "nvidia-container-runtime")
VARIABLES = ("DS_ACCELERATOR",)
NVIDIA, DISPLAY_CLASS = "0x10de", "0x03"

# A daemon that hangs must not hang us; a GPU box that has slept may take long to wake, and a container to start.
SECONDS = 10.0
SLOW = {GPUS: 30.0, GPUS_OF_OLD: 30.0}
CONTAINER_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What a command printed."""

    code: int | None
    """Exit code; None when it did not end in time."""
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True)
class Record:
    """A machine in its own words. What is not there has no entry."""

    platform: dict[str, Any]
    """system, release, machine, python, cores, memory_bytes, container (bool), nvidia_cards (on the PCI bus)."""
    environment: dict[str, str]
    files: dict[str, str]
    """Text of each file; the image's passport is under PASSPORT's path wherever it was read."""
    disks: dict[str, dict[str, int]]
    """{place: {"total", "free"}} in bytes; "." is the current folder, "docker" the engine's data."""
    programs: list[str]
    commands: dict[str, Answer]
    """By command line; a program that is not installed has no entry."""
    packages: dict[str, str]
    """Installed versions: of NEEDED, of bitsandbytes and, in an image, of all that its passport names."""
    pins: dict[str, str]
    """docker/versions.env; empty where it is not."""

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Record":
        answers = {command: Answer(**answer) for command, answer in document["commands"].items()}
        return cls(**{**document, "commands": answers})


def observe() -> Record:
    """This machine, within seconds even where something hangs."""
    files = _files()
    commands = _commands()
    return Record(
        platform=_platform(),
        environment={name: os.environ[name] for name in VARIABLES if name in os.environ},
        files=files,
        disks=_disks(commands.get(DOCKER_ROOT)),
        programs=[name for name in PROGRAMS if shutil.which(name)],
        commands=commands,
        packages=_packages(files.get(str(PASSPORT))),
        pins=read_pins(PINS) if Path(PINS).is_file() else {},
    )


def passport_command(image: str) -> str:
    """Prints the passport of an image without network, and without ever fetching an image."""
    return f"docker run --rm --network none --pull never --entrypoint cat {image} {PASSPORT}"


def json_of(answer: Answer | None) -> dict[str, Any]:
    """The JSON object a command printed, whatever its exit code; empty when it printed none."""
    try:
        document = json.loads(answer.stdout) if answer else {}
    except json.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _commands() -> dict[str, Answer]:
    first = [GPUS, DOCKER_VERSION, DOCKER_ROOT, RUNTIMES, DEVICES, DOCKER_IMAGES, BUILDX, COMPOSE, TOOLKIT]
    first += [WSL] if platform.system() == "Windows" else []
    first += [COMMIT] if Path(PINS).parent.parent.joinpath(".git").exists() else []
    commands = _ask_all(first)
    then = [GPUS_OF_OLD] if GPUS in commands and commands[GPUS].code else []
    listed = commands[DOCKER_IMAGES].stdout.split() if DOCKER_IMAGES in commands else []
    then += [passport_command(image) for image in IMAGES if image in listed]
    return commands | _ask_all(then)


def _ask_all(commands: Iterable[str]) -> dict[str, Answer]:
    """All at once: together they take as long as the slowest."""
    commands = list(commands)
    with ThreadPoolExecutor(max(len(commands), 1)) as pool:
        return {command: found for command, found in zip(commands, pool.map(_ask, commands), strict=True) if found}


def _ask(command: str) -> Answer | None:
    limit = CONTAINER_SECONDS if command.startswith("docker run") else SLOW.get(command, SECONDS)
    try:
        process = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"WSL_UTF8": "1", "LC_ALL": "C.UTF-8"},  # wsl.exe prints UTF-16 otherwise
            cwd=Path(PINS).parent.parent if command == COMMIT else None,
            start_new_session=True,
        )
    except OSError:
        return None
    try:
        stdout, stderr = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # The whole group: docker's plugins are its children, and one that lives on holds our pipes open.
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one stuck in the kernel is left to it
            process.wait(1)
        return Answer(None)
    return Answer(process.returncode, _decoded(stdout), _decoded(stderr))


def _decoded(output: bytes) -> str:
    return output.decode("utf-8", "replace").replace("\0", "").replace("\r\n", "\n")


def _platform() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": _memory_bytes(),
        "container": any(map(os.path.exists, CONTAINER_MARKS)) or "KUBERNETES_SERVICE_HOST" in os.environ,
        "nvidia_cards": sum(map(_is_nvidia_card, Path("/sys/bus/pci/devices").glob("*"))),
    }


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _is_nvidia_card(device: Path) -> bool:
    try:
        vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
    except OSError:
        return False
    return vendor.strip() == NVIDIA and kind.startswith(DISPLAY_CLASS)


def _files() -> dict[str, str]:
    passport = os.environ.get("EASYLLM_PASSPORT", str(PASSPORT))
    found = {}
    for name, path in [*((name, name) for name in FILES), (str(PASSPORT), passport)]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found[name] = Path(path).read_text("utf-8")
    if "/proc/cpuinfo" in found:  # the first core speaks for all
        found["/proc/cpuinfo"] = found["/proc/cpuinfo"].partition("\n\n")[0]
    return found


def _disks(docker_root: Answer | None) -> dict[str, dict[str, int]]:
    places = {".": ".", "/dev/shm": "/dev/shm", "docker": docker_root.stdout.strip() if docker_root else ""}
    found = {}
    for name, path in places.items():
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(path)
            found[name] = {"total": usage.total, "free": usage.free}
    return found


def _packages(passport: str | None) -> dict[str, str]:
    names = {*NEEDED, "bitsandbytes", *_packages_of(passport)}
    found = {}
    for name in sorted(names):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _packages_of(passport: str | None) -> list[str]:
    return list(json_of(Answer(0, passport or "")).get("packages") or {})


if __name__ == "__main__":
    print(json.dumps({"machine": "say in one line what it is", "record": observe().document()}, indent=1))
