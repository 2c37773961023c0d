"""What a machine is, read from its record. Pure: a recorded machine and this one go through the same lines."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from easyllm.env import observe, passport
from easyllm.env.observe import Answer, Record, json_of
from easyllm.env.passport import PASSPORT

Capability = tuple[int, int]
Toolkit = Literal["ready", "installed", "absent"]
STATED = {"image", "target", "variant", "torch", "packages", "wheels", *passport.STATED}
"""What verdicts ask of a passport."""


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: str
    """As nvidia-smi says it: 81559 MiB, or [N/A] where it is the machine's own memory."""
    capability: Capability | None
    """Compute capability; None where nvidia-smi is too old to say."""
    driver: str


@dataclass(frozen=True)
class Docker:
    client: bool
    engine: str | None
    """Version of the engine; None when none answers."""
    trouble: str
    """What the client said instead of an answer; empty when it said nothing."""
    silent: bool
    """The engine is there and does not answer in time."""
    buildx: str | None
    compose: str | None
    toolkit: Toolkit
    """ready: a container gets the GPUs; installed: on the machine, but this engine does not know it."""
    free_bytes: int | None
    images: dict[str, dict[str, Any]]
    """Passport of each image of ours that is here; empty where it has none that can be read."""


@dataclass(frozen=True)
class Machine:
    """The facts that verdicts rest on."""

    system: str
    architecture: str
    wsl: Literal[0, 1, 2]
    """Version of the Windows Subsystem for Linux we are in; 0 outside of it."""
    wsl_distributions: dict[str, int]
    """On Windows: {name: WSL version} of the Linux distributions installed."""
    container: bool
    distributions: frozenset[str]
    """ID and ID_LIKE of /etc/os-release: {"ubuntu", "debian"}."""
    python: str
    cores: int
    memory_bytes: int | None
    """What we may use: the machine's memory, or the container's limit."""
    disk_free_bytes: int
    shm_bytes: int | None
    """Size of /dev/shm; None where there is none."""
    memlock_bytes: int | None
    """Memory a process may lock; None where there is no limit."""
    cpu_flags: frozenset[str]
    gpus: tuple[Gpu, ...]
    gpu_trouble: str
    """What nvidia-smi said instead of listing GPUs; empty where it is not installed or listed them."""
    nvidia_cards: int
    """NVIDIA cards on the PCI bus, driver or not."""
    docker: Docker
    passport: dict[str, Any] | None
    """Of the image we are in; empty where it cannot be read, None outside of an image."""
    accelerator: str | None
    """DS_ACCELERATOR: the name under which DeepSpeed looks for its prebuilt ops."""
    packages: dict[str, str]
    pins: dict[str, str]
    commit: str | None
    """Of the checkout; None outside of one."""


def read(record: Record) -> Machine:
    facts, files = record.platform, record.files
    gpus, trouble = read_gpus(record.commands)
    return Machine(
        system=facts["system"],
        architecture=facts["machine"],
        wsl=_wsl(facts["release"]),
        wsl_distributions=read_wsl_list(record.commands.get(observe.WSL)),
        container=facts["container"],
        distributions=read_distributions(files.get("/etc/os-release", "")),
        python=facts["python"],
        cores=facts["cores"],
        memory_bytes=_memory(facts["memory_bytes"], files),
        disk_free_bytes=record.disks["."]["free"] if "." in record.disks else 0,
        shm_bytes=record.disks["/dev/shm"]["total"] if "/dev/shm" in record.disks else None,
        memlock_bytes=read_memlock(files.get("/proc/self/limits", "")),
        cpu_flags=read_cpu_flags(files.get("/proc/cpuinfo", "")),
        gpus=gpus,
        gpu_trouble=trouble,
        nvidia_cards=facts["nvidia_cards"],
        docker=_docker(record),
        passport=_passport(Answer(0, files[str(PASSPORT)])) if str(PASSPORT) in files else None,
        accelerator=record.environment.get("DS_ACCELERATOR"),
        packages=record.packages,
        pins=record.pins,
        commit=_said(record.commands.get(observe.COMMIT)),
    )


def read_gpus(commands: dict[str, Answer]) -> tuple[tuple[Gpu, ...], str]:
    """(the GPUs, what nvidia-smi said where it listed none)."""
    answer = commands.get(observe.GPUS)
    if answer is None:
        return (), ""
    fields = 4
    if answer.code and commands.get(observe.GPUS_OF_OLD, Answer(1)).code == 0:
        answer, fields = commands[observe.GPUS_OF_OLD], 3
    if answer.code is None:
        return (), "nvidia-smi: timeout"
    # A card's name may hold anything, so the fields are taken from the right.
    rows = [line.rsplit(", ", fields - 1) for line in answer.stdout.splitlines() if line.strip()]
    if answer.code == 0 and rows and all(len(row) == fields for row in rows):
        return tuple(Gpu(row[0], row[1], _capability(row[2]) if fields == 4 else None, row[-1]) for row in rows), ""
    return (), first_line(answer.stderr) or first_line(answer.stdout) or "nvidia-smi: -"


def read_distributions(os_release: str) -> frozenset[str]:
    pairs = (line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    return frozenset(word for name, value in pairs if name in ("ID", "ID_LIKE") for word in value.strip('"').split())


def read_memlock(limits: str) -> int | None:
    """The soft limit of /proc/self/limits in bytes; None where there is none."""
    found = re.search(r"^Max locked memory\s+(\d+)", limits, re.MULTILINE)
    return int(found[1]) if found else None


def read_cpu_flags(cpuinfo: str) -> frozenset[str]:
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def read_wsl_list(answer: Answer | None) -> dict[str, int]:
    """{distribution: WSL version} of ``wsl --list --verbose``; the default one is marked with a star."""
    if answer is None or answer.code != 0:
        return {}
    rows = (line.lstrip(" *").split() for line in answer.stdout.splitlines()[1:])
    found = {row[0]: int(row[-1]) for row in rows if len(row) > 2 and row[-1].isdigit()}
    return {name: version for name, version in found.items() if not name.startswith("docker-desktop")}


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def version(text: str) -> tuple[int, ...]:
    """The numbers of the first version in a text: "v2.26.1-ds1" -> (2, 26, 1); empty where there is none."""
    found = re.search(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _docker(record: Record) -> Docker:
    commands = record.commands
    asked = commands.get(observe.DOCKER_VERSION)
    engine = (json_of(asked).get("Server") or {}).get("Version") or None
    return Docker(
        client=asked is not None,
        engine=engine,
        trouble="" if engine or asked is None else first_line(asked.stderr),
        silent=asked is not None and asked.code is None,
        buildx=_version_said(commands.get(observe.BUILDX)),
        compose=_version_said(commands.get(observe.COMPOSE)),
        toolkit=_toolkit(record),
        free_bytes=record.disks["docker"]["free"] if "docker" in record.disks else None,
        images={
            image: _passport(commands[observe.passport_command(image)])
            for image in observe.IMAGES
            if observe.passport_command(image) in commands
        },
    )


def _toolkit(record: Record) -> Toolkit:
    runtimes = (_said(record.commands.get(observe.RUNTIMES)) or "").split()
    devices = _said(record.commands.get(observe.DEVICES)) or ""
    # --gpus is answered by the hook where dockerd finds it on its PATH, even with no runtime of that name configured.
    if "nvidia" in runtimes or "nvidia-container-runtime-hook" in record.programs or "nvidia.com/gpu" in devices:
        return "ready"
    return "installed" if observe.TOOLKIT in record.commands or record.programs else "absent"


def _passport(answer: Answer) -> dict[str, Any]:
    """A whole passport of the schema we know, or an empty one."""
    found = json_of(answer) if answer.code == 0 else {}
    if found.get("schema") != passport.SCHEMA or not found.keys() >= STATED:
        return {}
    try:
        passport.faults(found)
    except (AttributeError, KeyError, TypeError):  # it lacks what the image would be judged by
        return {}
    return found


def _version_said(answer: Answer | None) -> str | None:
    """ "2.26.1" of "v2.26.1-ds1"; None where the plugin is not there."""
    numbers = version(answer.stdout) if answer and answer.code == 0 else ()
    return ".".join(map(str, numbers)) or None


def _said(answer: Answer | None) -> str | None:
    return (answer.stdout.strip() or None) if answer and answer.code == 0 else None


def _capability(text: str) -> Capability | None:
    numbers = version(text)
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _wsl(release: str) -> Literal[0, 1, 2]:
    """5.15.167.4-microsoft-standard-WSL2 is WSL2, 4.4.0-19041-Microsoft is WSL1."""
    if "microsoft" not in release.lower():
        return 0
    return 1 if release.startswith("4.4.") else 2


def _memory(whole: int | None, files: dict[str, str]) -> int | None:
    limits = [files.get("/sys/fs/cgroup/memory.max", ""), files.get("/sys/fs/cgroup/memory/memory.limit_in_bytes", "")]
    known = [int(text) for text in limits if text.strip().isdigit()]  # cgroup v2 says "max" where there is no limit
    return min([whole, *known]) if whole else None
