"""What a machine's facts mean: one finding each, with the fix and the abilities it takes away. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from easyllm.core.messages import say
from easyllm.core.sizes import human_bytes
from easyllm.env import passport
from easyllm.env.machine import Capability, Gpu, Machine, version
from easyllm.env.observe import NEEDED
from easyllm.env.stages import OLDEST_ENGINE

Verdict = Literal["good", "care", "missing"]
MIB = 1 << 20
DEMO_MEMORY_BYTES = 8_000_000_000
DEMO_DISK_BYTES = 6_000_000_000
BUILD_DISK_BYTES = 30_000_000_000
"""A CUDA torch environment is 5.4 GB and stands in the build twice, beside a CUDA base image: an estimate."""
SMALL_SHM_BYTES = 64 * MIB
"""What Docker gives a container that does not ask."""

BF16_CAPABILITY = (8, 0)
INT8_CAPABILITY = (7, 5)
OLDEST_CARD = {12: (5, 0), 13: (7, 5)}
"""Lowest compute capability that each CUDA still makes code for; CUDA 13 dropped Maxwell, Pascal and Volta."""
OLDEST_BUILDX = (0, 8)
"""The first with named build contexts."""
OLDEST_COMPOSE = (2, 24)
"""The first whose `!reset` takes the GPU reservation away again on a machine without GPUs."""
CPU_LEVELS = {
    "x86-64-v2": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
    "x86-64-v3": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "x86-64-v4": "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave "
    "avx512f avx512bw avx512cd avx512dq avx512vl",
}
"""CPU flags that code of each level may use, as Linux names them."""

LOCAL = ("pipeline_on_cpu", "pipeline_on_gpu")
CONTAINER = ("container_on_cpu", "container_on_gpu")
ON_GPU = ("pipeline_on_gpu", "container_on_gpu", "serving_on_gpu")
ON_HOST = (*LOCAL, "image_build", *CONTAINER, "compose_serving", "bf16", "quantised")
IN_IMAGE = {
    "train": (*LOCAL, "bf16", "quantised"),
    "serving": ("serving_on_cpu", "serving_on_gpu"),
}
"""What can be asked of a machine: outside the images, and inside each."""
ALL = (*ON_HOST, *IN_IMAGE["serving"])


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    value: str
    verdict: Verdict = "good"
    fix: str = ""
    """What to do; empty when nothing is to be done."""
    blocks: tuple[str, ...] = ()
    """The abilities that the machine lacks because of this."""


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]
    abilities: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Each ability with the findings that stand in its way; it is there when none does."""


def judge(machine: Machine) -> Report:
    """The verdicts: the same machine gives the same report."""
    findings = tuple(_findings(machine))
    target = str(machine.passport.get("target")) if machine.passport else ""
    return Report(
        findings,
        {
            ability: tuple(entry.name for entry in findings if ability in entry.blocks)
            for ability in IN_IMAGE.get(target, ON_HOST)
        },
    )


def _findings(machine: Machine) -> Iterator[Finding]:
    yield _system(machine)
    yield _python(machine)
    yield _finding("cores", str(machine.cores), machine.cores >= 2, "fix_cores")
    yield _sized("memory", machine.memory_bytes, DEMO_MEMORY_BYTES, "fix_memory")
    yield _sized("disk", machine.disk_free_bytes, DEMO_DISK_BYTES, "fix_disk")
    if machine.system == "Linux":
        yield _shared_memory(machine)
        yield _memlock(machine)
    yield _gpu(machine)
    if machine.gpus and (machine.passport is None or machine.passport.get("variant") == "cuda"):
        yield _driver(machine)
        yield _compute_capability(machine)
    yield _bf16(machine)
    if machine.passport is None or machine.passport.get("target") == "train":
        yield _bitsandbytes(machine)
    if _is_no_place(machine):
        return  # nothing else is worth mending there
    if machine.passport is not None:
        yield from _inside_image(machine, machine.passport)
    else:
        yield from (_package(machine, name) for name in NEEDED)
    # A container is not expected to hold a Docker of its own.
    if machine.docker.client or not machine.container:
        yield from _docker(machine)


# ---- the machine itself --------------------------------------------------------------------------------------------


def _is_no_place(machine: Machine) -> bool:
    """Where easyllm does not run whatever is installed: Windows itself, and WSL1."""
    return machine.system == "Windows" or machine.wsl == 1


def _system(machine: Machine) -> Finding:
    value = f"{machine.system} {machine.architecture}"
    if machine.system == "Windows":
        return Finding("system", value, "missing", _way_out_of_windows(machine.wsl_distributions), ALL)
    if machine.wsl:
        value += f" (WSL{machine.wsl})"
    if machine.wsl == 1:
        return Finding("system", value, "missing", say("fix_wsl1"), ALL)
    return Finding("system", value + (say("doctor_in_container") if machine.container else ""))


def _way_out_of_windows(distributions: dict[str, int]) -> str:
    """The next step towards WSL2, from where this Windows is."""
    for name, wsl in distributions.items():
        if wsl == 2:
            return say("fix_windows_wsl2", name=name)
    for name in distributions:
        return say("fix_windows_wsl1", name=name)
    return say("fix_windows")


def _python(machine: Machine) -> Finding:
    wanted = machine.pins.get("PYTHON_VERSIONS", "").split()  # outside a checkout pip has judged it already
    if not wanted or machine.python.rpartition(".")[0] in wanted:
        return Finding("python", machine.python)
    return _missing("python", machine.python, "fix_python", LOCAL, wanted=", ".join(wanted))


def _shared_memory(machine: Machine) -> Finding:
    if machine.shm_bytes is None:
        return Finding("/dev/shm", "-")
    fix = "fix_shm_container" if machine.container else "fix_shm"
    return _finding("/dev/shm", human_bytes(machine.shm_bytes), machine.shm_bytes > SMALL_SHM_BYTES, fix)


def _memlock(machine: Machine) -> Finding:
    """A limit hurts only where a GPU's network card (RDMA) pins memory."""
    if machine.memlock_bytes is None:
        return Finding("memlock", say("doctor_no_limit"))
    fix = "fix_memlock_container" if machine.container else "fix_memlock"
    return _finding("memlock", human_bytes(machine.memlock_bytes), not machine.gpus, fix)


def _package(machine: Machine, name: str) -> Finding:
    here, pinned = machine.packages.get(name), machine.pins.get("PY_" + name.upper().replace("-", "_"))
    if here is None:
        return _missing(name, "-", "fix_package", LOCAL)
    if pinned and here.split("+")[0] != pinned:
        return Finding(name, here, "care", say("fix_pin", pinned=pinned))
    if name == "torch" and here.endswith("+cpu") and machine.gpus:
        return Finding(name, here, "care", say("fix_cpu_torch"), ("pipeline_on_gpu",))
    return Finding(name, here)


# ---- GPUs ----------------------------------------------------------------------------------------------------------


def _gpu(machine: Machine) -> Finding:
    if machine.gpus:
        kinds = {f"{gpu.name}, {gpu.memory}": 0 for gpu in machine.gpus}
        for gpu in machine.gpus:
            kinds[f"{gpu.name}, {gpu.memory}"] += 1
        value = "; ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())
        wasted = machine.passport is not None and machine.passport.get("variant") == "cpu"
        return Finding("gpu", value, "care", say("fix_cpu_image"), ON_GPU) if wasted else Finding("gpu", value)
    return Finding("gpu", machine.gpu_trouble or "-", "care", _way_to_a_gpu(machine), ON_GPU)


def _way_to_a_gpu(machine: Machine) -> str:
    for_cuda = machine.passport is not None and machine.passport.get("variant") == "cuda"
    if machine.container and (machine.nvidia_cards or machine.gpu_trouble or for_cuda):
        return say("fix_gpu_container")
    if "mismatch" in machine.gpu_trouble:  # Driver/library version mismatch: updated under a running kernel module
        return say("fix_driver_mismatch")
    if machine.gpu_trouble:
        return say("fix_driver_dead")
    if machine.nvidia_cards:
        return say("fix_no_driver", how=_driver_commands(machine))
    return say("doctor_no_gpu")


def _driver(machine: Machine) -> Finding:
    driver = min((gpu.driver for gpu in machine.gpus), key=version)
    stated = machine.passport or {"min_driver": machine.pins.get("CUDA_MIN_DRIVER"), "cuda": _cuda(machine)}
    wanted = str(stated.get("min_driver") or "")
    if _driver_is_enough(machine, driver, wanted):
        return Finding("driver", driver)
    how = _driver_commands(machine)
    return _missing("driver", driver, "fix_driver", ON_GPU, wanted=wanted, cuda=stated.get("cuda"), how=how)


def _driver_is_enough(machine: Machine, driver: str, wanted: str) -> bool:
    # The pin is Linux's number. Windows' own driver, WSL2's too, agrees with it in the branch only.
    numbers = 1 if machine.wsl or machine.system == "Windows" else 3
    return version(driver)[:numbers] >= version(wanted)[:numbers]


def _driver_commands(machine: Machine) -> str:
    branch = version(machine.pins.get("CUDA_MIN_DRIVER", ""))[:1]
    if machine.wsl or machine.system == "Windows":
        return say("how_driver_wsl")
    if machine.container:
        return say("how_driver_container")
    if "ubuntu" in machine.distributions and branch:
        return f"sudo apt-get install -y nvidia-driver-{branch[0]}-server && sudo reboot"
    return "https://www.nvidia.com/drivers"


def _compute_capability(machine: Machine) -> Finding:
    weakest = _weakest(machine)
    name = "compute capability"
    if weakest is None or weakest.capability is None:
        return Finding(name, "-", "care", say("fix_capability_unknown"))
    cuda = str((machine.passport or {}).get("cuda") or _cuda(machine))
    oldest = _oldest_card(cuda)
    here = _dotted(weakest.capability)
    if weakest.capability < oldest:
        params = {"gpu": weakest.name, "here": here, "wanted": _dotted(oldest), "cuda": cuda}
        return _missing(name, here, "fix_capability", ON_GPU, **params)
    arches = (machine.passport or {}).get("arch_list") or _arches(machine)
    params = {"here": _capabilities(machine), "arches": ";".join(arches)}
    return _finding(name, _capabilities(machine), not arches or _covered(machine, arches), "fix_arch_list", **params)


def _bf16(machine: Machine) -> Finding:
    weakest = _weakest(machine)
    if weakest and weakest.capability and weakest.capability < BF16_CAPABILITY:
        fix = say("fix_bf16_gpu", gpu=weakest.name, here=_dotted(weakest.capability))
        return Finding("bf16", "-", "care", fix, ("bf16",))
    if machine.gpus and weakest is None:
        return Finding("bf16", "-", "care", say("fix_capability_unknown"), ("bf16",))
    if machine.gpus or {"avx512_bf16", "amx_bf16"} & machine.cpu_flags:
        return Finding("bf16", say("doctor_yes"))
    return Finding("bf16", "-", "care", say("doctor_no_bf16"), ("bf16",))


def _bitsandbytes(machine: Machine) -> Finding:
    """int8 and 4-bit bases: is the package here, and can it work on this machine."""
    here, weakest = machine.packages.get("bitsandbytes"), _weakest(machine)
    name, blocks = "bitsandbytes", ("quantised",)
    if machine.system == "Windows":
        return Finding(name, here or "-", "missing", say("fix_bitsandbytes_windows"), blocks)
    if weakest and weakest.capability and weakest.capability < INT8_CAPABILITY:
        params = {"gpu": weakest.name, "here": _dotted(weakest.capability), "wanted": _dotted(INT8_CAPABILITY)}
        return Finding(name, here or "-", "care", say("fix_bitsandbytes_card", **params), blocks)
    if here is None:
        package = f"bitsandbytes=={machine.pins['PY_BITSANDBYTES']}" if "PY_BITSANDBYTES" in machine.pins else name
        return Finding(name, "-", "care", say("fix_bitsandbytes", package=package), blocks)
    return Finding(name, here)


def _weakest(machine: Machine) -> Gpu | None:
    """The GPU of the lowest known compute capability: what all ranks together can do."""
    known = [gpu for gpu in machine.gpus if gpu.capability]
    return min(known, key=lambda gpu: gpu.capability or (0, 0), default=None)


def _cuda(machine: Machine) -> str:
    return machine.pins.get("CUDA_VERSION", "")


def _arches(machine: Machine) -> list[str]:
    return [arch for arch in machine.pins.get("TORCH_CUDA_ARCH_LIST", "").split(";") if arch]


def _capabilities(machine: Machine) -> str:
    return ", ".join(map(_dotted, sorted({gpu.capability for gpu in machine.gpus if gpu.capability})))


def _oldest_card(cuda: str) -> Capability:
    return OLDEST_CARD.get(version(cuda)[0], (0, 0)) if version(cuda) else (0, 0)


def _covered(machine: Machine, arches: list[str]) -> bool:
    """Whether code compiled for ``arches`` runs on every GPU: within a generation it runs on the later ones too."""
    known = [gpu.capability for gpu in machine.gpus if gpu.capability]
    return all(any(_runs(arch, capability) for arch in arches) for capability in known)


def _runs(arch: str, capability: Capability) -> bool:
    made_for = version(arch)[:2]
    if len(made_for) < 2 or capability < made_for:
        return False
    return capability[0] == made_for[0] or arch.endswith("PTX")  # PTX is compiled for the card when it is loaded


def _dotted(capability: Capability) -> str:
    return "{}.{}".format(*capability)


# ---- Docker --------------------------------------------------------------------------------------------------------


def _docker(machine: Machine) -> Iterator[Finding]:
    docker = machine.docker
    blocks = ("image_build", *CONTAINER, "compose_serving")
    if docker.engine is None:
        yield Finding("docker", docker.trouble or "-", "care", _way_to_an_engine(machine), blocks)
        return
    if version(docker.engine) < (OLDEST_ENGINE,):
        yield _missing("docker", docker.engine, "fix_docker_old", ("image_build",), wanted=OLDEST_ENGINE)
    else:
        yield Finding("docker", docker.engine)
    yield _plugin("buildx", docker.buildx, OLDEST_BUILDX, "image_build")
    yield _plugin("compose", docker.compose, OLDEST_COMPOSE, "compose_serving")
    if machine.gpus or machine.nvidia_cards:
        yield _toolkit(machine)
    if docker.free_bytes is not None:
        yield _sized("docker disk", docker.free_bytes, BUILD_DISK_BYTES, "fix_docker_disk")
    if not docker.images:
        yield Finding("images", "-", "care", say("fix_no_images"))
    for name, found in docker.images.items():
        yield _image(machine, name, found)


def _way_to_an_engine(machine: Machine) -> str:
    docker = machine.docker
    if not docker.client:
        how = "https://docs.docker.com/engine/install/"
        if "ubuntu" in machine.distributions:
            how = "sudo apt-get install -y docker.io docker-buildx docker-compose-v2"
        return say("fix_docker", how=how)
    if docker.silent:
        return say("fix_docker_silent")
    if "permission denied" in docker.trouble.lower():
        return say("fix_docker_denied")
    return say("fix_docker_stopped")


def _plugin(name: str, here: str | None, oldest: tuple[int, ...], blocks: str) -> Finding:
    if here and version(here) >= oldest:
        return Finding(name, here)
    return _missing(name, here or "-", f"fix_{name}", (blocks,), wanted=".".join(map(str, oldest)))


def _toolkit(machine: Machine) -> Finding:
    name, state = "nvidia-container-toolkit", machine.docker.toolkit
    if state == "ready":
        return Finding(name, say("doctor_toolkit_ready"))
    if state == "installed":
        return _missing(name, say("doctor_toolkit_installed"), "fix_toolkit_configure", ("container_on_gpu",))
    known = {"debian": "apt-get", "fedora": "dnf", "rhel": "dnf", "suse": "zypper"}
    # The family's name stands in ID or ID_LIKE: an Ubuntu is like debian, a Rocky like rhel.
    managers = [manager for family, manager in known.items() if family in machine.distributions]
    return _missing(name, "-", "fix_toolkit", ("container_on_gpu",), manager=managers[0] if managers else "apt-get")


# ---- images --------------------------------------------------------------------------------------------------------


def _image(machine: Machine, name: str, found: dict[str, Any]) -> Finding:
    """An image seen from its host: is it sound, does it fit this machine, is it as old as its pins."""
    if not found:
        return Finding(name, "-", "care", say("fix_no_passport"))
    variant = "container_on_gpu" if found["variant"] == "cuda" else "container_on_cpu"
    wrong = [*_unsound(found), *_foreign_cpu(machine, found)]
    bare = _without_cuda(found)
    stale = _stale(machine, found)
    fixes = [*wrong, *bare, *_foreign_gpu(machine, found)]
    fixes += [say("fix_stale_image", stale=", ".join(stale))] if stale else []
    verdict: Verdict = "missing" if wrong else "care" if fixes else "good"
    return Finding(name, _summary(found), verdict, " ".join(fixes), (variant,) if wrong or bare else ())


def _inside_image(machine: Machine, found: dict[str, Any]) -> Iterator[Finding]:
    """The image we are in, held against what is installed now."""
    if not found:
        yield Finding("image", "-", "care", say("fix_no_passport"))
        return
    wrong, bare = [*_unsound(found), *_foreign_cpu(machine, found)], _without_cuda(found)
    value = f"{found['image']}, {_summary(found)}"
    verdict: Verdict = "missing" if wrong else "care" if bare else "good"
    blocks = (*LOCAL, "serving_on_cpu", "serving_on_gpu") if wrong else ON_GPU if bare else ()
    yield Finding("image", value, verdict, " ".join([*wrong, *bare]), blocks)
    changed = [
        f"{name} {machine.packages.get(name, '-')} ({was})"
        for name, was in found["packages"].items()
        if machine.packages.get(name) != was
    ]
    count = str(len(found["packages"]))
    fix = say("fix_changed_packages", changed=", ".join(changed))
    yield Finding("packages", count, "care", fix) if changed else Finding("packages", count)
    if "accelerator" in found["wheels"].get("deepspeed", {}):
        yield _prebuilt_ops(machine, found["wheels"]["deepspeed"])


def _prebuilt_ops(machine: Machine, wheel: dict[str, Any]) -> Finding:
    """DeepSpeed takes a prebuilt op only under the accelerator name that it was built for."""
    ops = ", ".join(path.rpartition("/")[2].partition(".")[0].removesuffix("_op") for path in wheel["extensions"])
    value, made_for = f"{ops} ({wheel['accelerator']})", wheel["accelerator"]
    return _finding("DeepSpeed ops", value, machine.accelerator == made_for, "fix_accelerator", made_for=made_for)


def _summary(found: dict[str, Any]) -> str:
    """What tells one build from another."""
    return f"torch {found['torch']}, {found['commit'][:12]}"


def _unsound(found: dict[str, Any]) -> list[str]:
    faults = passport.faults(found)
    return [say("fix_unsound_image", faults="; ".join(faults))] if faults else []


def _without_cuda(found: dict[str, Any]) -> list[str]:
    """An image for CUDA that was built on a stand-in, as tests do where there is no GPU."""
    return [say("fix_standin_image")] if found["variant"] == "cuda" and not found["torch_cuda"] else []


def _foreign_cpu(machine: Machine, found: dict[str, Any]) -> list[str]:
    compiled = any(wheel["extensions"] for wheel in found["wheels"].values())
    wanted = set(CPU_LEVELS.get(found["cpu_march"], "").split()) if compiled else set()
    # No flags known (another system): nothing can be said.
    lacking = sorted(wanted - machine.cpu_flags) if machine.cpu_flags else []
    return [say("fix_cpu_march", march=found["cpu_march"], lacking=" ".join(lacking))] if lacking else []


def _foreign_gpu(machine: Machine, found: dict[str, Any]) -> list[str]:
    """What keeps a CUDA image from this machine's GPUs, where the findings on driver and card do not say it already."""
    if found["variant"] != "cuda" or not machine.gpus:
        return []
    fixes = []
    driver, wanted, arches = machine.gpus[0].driver, found["min_driver"], found["arch_list"]
    if wanted != machine.pins.get("CUDA_MIN_DRIVER") and not _driver_is_enough(machine, driver, wanted):
        fixes.append(say("fix_image_driver", wanted=wanted, here=driver))
    if arches != _arches(machine) and not _covered(machine, arches):
        fixes.append(say("fix_arch_list", here=_capabilities(machine), arches=";".join(arches)))
    return fixes


def _stale(machine: Machine, found: dict[str, Any]) -> list[str]:
    """Where an image is not what this checkout would build: NAME IN-THE-IMAGE → HERE."""
    pins = machine.pins
    if not pins:
        return []
    was = dict(found["pins"])
    now = {name: pins.get("PY_" + name.upper().replace("-", "_")) for name in was}
    was |= {
        "CUDA": found["cuda"],
        "CPU_MARCH": found["cpu_march"],
        "TORCH_CUDA_ARCH_LIST": ";".join(found["arch_list"]),
    }
    now |= {"CUDA": _cuda(machine)} | {name: pins.get(name) for name in ("CPU_MARCH", "TORCH_CUDA_ARCH_LIST")}
    if machine.commit and found["commit"] != "unknown":
        was["commit"], now["commit"] = found["commit"][:12], machine.commit[:12]
    return [f"{name} {was[name]} → {now[name]}" for name in was if now[name] and was[name] != now[name]]


# ---- shorthands ----------------------------------------------------------------------------------------------------


def _finding(name: str, value: str, good: bool, fix: str, **params: Any) -> Finding:
    return Finding(name, value) if good else Finding(name, value, "care", say(fix, **params))


def _missing(name: str, value: str, fix: str, blocks: tuple[str, ...], **params: Any) -> Finding:
    return Finding(name, value, "missing", say(fix, **params), blocks)


def _sized(name: str, have: int | None, want: int, fix: str) -> Finding:
    if have is None:
        return Finding(name, "-")
    return _finding(name, human_bytes(have), have >= want, fix, wanted=human_bytes(want))
