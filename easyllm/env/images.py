"""Build the images: ``python3 easyllm/env/images.py build`` (what ``make build`` calls). Needs Docker and a Python 3.

Prints the plan first: every stage of docker/Dockerfile, its pins, and what is cached. Each stage is then built and kept
under a name made of everything that decides its content (easyllm-build:STAGE-KEY), so a compiled wheel is never
compiled twice, not even after ``docker builder prune``, and can be moved to another machine with ``docker save``.

Settings from the environment: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST, TORCH_INDEX, PIP_NO_INDEX=1 (all
packages from the folder of wheels) reach pip in the build as a secret, never a layer; TORCH_WHEELS is that folder, and
is looked in first; HTTPS_PROXY and friends are passed on.
"""

# Runs on the host, before any environment is made: stdlib only, old syntax.
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from typing import NamedTuple

# run as a script, this folder is on the path and easyllm is not
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from easyllm.env import bootstrap
from easyllm.env.stages import DOCKERFILE, OLDEST_ENGINE, ask, read_stages, short, stage_keys
from easyllm.env.words import text

ROOT = bootstrap.ROOT
TARGETS = ("train", "serving")
CACHE = "easyllm-build"
GB_A_JOB = 3
"""Memory that one compiler process of a CUDA extension may take; 2.1 GB were measured for apex."""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
# The stages that are kept, in the order they are built, and the pins a reader wants to see beside them.
STEPS = (
    ("toolchain", ("PY_PIP", "PY_SETUPTOOLS")),
    ("torch", ("PY_TORCH", "CUDA_VERSION")),
    ("apex", ("APEX_COMMIT", "TORCH_CUDA_ARCH_LIST")),
    ("transformer-engine", ("TRANSFORMER_ENGINE_COMMIT", "TORCH_CUDA_ARCH_LIST")),
    ("deepspeed", ("PY_DEEPSPEED", "DEEPSPEED_SHA256", "CPU_MARCH")),
    ("transformers", ("PY_TRANSFORMERS", "TRANSFORMERS_SHA256")),
    ("peft", ("PY_PEFT", "PEFT_SHA256")),
    ("train", ("PY_MEGATRON_CORE", "PY_BITSANDBYTES")),
    ("serving", ("BASE_IMAGE",)),
)


class Step(NamedTuple):
    """One stage that is built and kept."""

    stage: str
    about: str
    pins: str
    image: str
    """Where it is kept: easyllm-build:STAGE-KEY."""
    cached: bool


def main() -> int:
    options = read_options()
    if options.verb == "prune":
        return prune(options)
    settings = settings_of(options)
    contexts = contexts_of(options, settings)
    engine = ask_engine()
    steps = make_plan(options, settings, contexts)
    print(plan_text(options, settings, contexts, steps, engine))
    if options.plan:
        return 0
    times = build(options, settings, contexts, steps)
    write_env(options.variant)
    print(built_text(options, steps, times))
    return 0


# ---- what is asked ---------------------------------------------------------------------------------------------------
def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", metavar="build|prune")
    verbs.required = True
    for verb, about in (
        ("build", "print the plan, then build"),
        ("prune", "remove kept stages that the present plan does not use"),
    ):
        sub = verbs.add_parser(verb, help=about)
        add = sub.add_argument
        add("--variant", choices=("cuda", "cpu"), help="default: cuda where an NVIDIA GPU is, else cpu")
        add("--target", choices=TARGETS, action="append", help="one image only; may be given twice (default: both)")
        add("--plan", action="store_true", help="print the plan and build nothing")
        add("--context", action="append", default=[], metavar="STAGE=PLACE", help="take a stage of the Dockerfile from "
            "a folder, docker-image://NAME or a git address; the folder of wheels is STAGE wheels")  # fmt: skip
        add("--arch-list", metavar="LIST", help="GPU generations to compile for, such as 9.0 or 8.0;9.0")
        add("--jobs", type=int, help=f"compiler processes at once (MAX_JOBS); default: one per {GB_A_JOB} GB and core")
        add("--memory", type=float, metavar="GB", help="memory the compilers may take together (default: what is free)")
        add("--without-apex", action="store_true", help="leave apex out (Megatron-Core then uses torch's kernels)")
        add("--with-transformer-engine", action="store_true", help="compile Transformer Engine too (long)")
        add(
            "--apt-mirror", default="", metavar="ADDRESS", help="such as http://mirror.example (signatures are checked)"
        )
        add("--standin", action="store_true", help="a CUDA image without CUDA, to test the build where there is none")
    options = parser.parse_args()
    options.why = text("why_asked")
    if options.variant is None:
        gpu = bootstrap.has_gpu()
        options.variant, options.why = ("cuda", text("why_gpu")) if gpu else ("cpu", text("why_no_gpu"))
    options.target = options.target or list(TARGETS)
    return options


def settings_of(options: argparse.Namespace) -> "dict[str, str]":
    """Every build argument: the pins, and what was asked for."""
    settings = bootstrap.read_pins(bootstrap.PINS)
    jobs, options.jobs_why = choose_jobs(options.jobs, options.memory)
    settings.update(
        VARIANT=options.variant,
        WITH_APEX="1" if options.variant == "cuda" and not options.without_apex else "0",
        WITH_TRANSFORMER_ENGINE="1" if options.variant == "cuda" and options.with_transformer_engine else "0",
        MAX_JOBS=str(jobs),
        APT_MIRROR=options.apt_mirror,
        STANDIN="1" if options.standin else "0",
        COMMIT=commit(),
    )
    if options.arch_list:
        settings["TORCH_CUDA_ARCH_LIST"] = options.arch_list
    return settings


def choose_jobs(asked: "int | None", memory_gb: "float | None") -> "tuple[int, str]":
    """Compiler processes at once, and why."""
    if asked:
        return max(1, asked), text("why_asked")
    cores = os.cpu_count() or 1
    memory = memory_gb if memory_gb else free_memory_gb()
    jobs = max(1, min(cores, int(memory // GB_A_JOB)))
    return jobs, text("jobs", cores=cores, memory=memory, gb=GB_A_JOB)


def free_memory_gb() -> float:
    """What /proc/meminfo calls available; 8 where there is none (macOS: Docker's machine decides anyway)."""
    try:
        available = re.search(r"MemAvailable:\s+(\d+)", bootstrap.read("/proc/meminfo"))
    except OSError:
        available = None
    return int(available.group(1)) / 1e6 if available else 8.0


def commit() -> str:
    """The commit of this checkout, -dirty behind it where files differ; unknown without git."""
    answer = ask(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"])
    return answer or "unknown"


def contexts_of(options: argparse.Namespace, settings: "dict[str, str]") -> "dict[str, str]":
    """{stage: place} of everything that was replaced; refuses what is not there."""
    stages = read_stages(settings)
    contexts = {}
    if os.environ.get("TORCH_WHEELS"):
        contexts["wheels"] = os.environ["TORCH_WHEELS"]
    for entry in options.context:
        name, equals, place = entry.partition("=")
        if not equals or name not in stages:
            known = ", ".join(sorted(stages))
            bootstrap.stop(text("no_stage", entry=entry, name=name), text("no_stage_fix", stages=known))
        contexts[name] = place
    for name, place in contexts.items():
        if "://" not in place and not os.path.isdir(place):
            bootstrap.stop(text("no_place", entry=f"{name}={place}"), text("no_place_fix"))
    return contexts


# ---- the plan --------------------------------------------------------------------------------------------------------
def make_plan(options: argparse.Namespace, settings: "dict[str, str]", contexts: "dict[str, str]") -> "list[Step]":
    """The steps that the asked targets need, in order."""
    stages = read_stages(settings)
    wanted = set()  # type: set[str]
    waiting = list(options.target)
    while waiting:
        name = waiting.pop()
        if name in stages and name not in wanted and name not in contexts:
            wanted.add(name)
            waiting += stages[name].needs
    keys = stage_keys(settings, contexts)
    kept = set(ask(["docker", "image", "ls", CACHE, "--format", "{{.Tag}}"]).split())
    steps = []
    for stage, pins in STEPS:
        switch = settings.get("WITH_" + stage.upper().replace("-", "_"))
        if stage not in wanted or switch == "0":
            continue
        tag = f"{stage}-{keys[stage]}"
        named = ", ".join(f"{key.lower()} {short(settings[key])}" for key in pins)
        if stage == "toolchain":
            base = "compilers-" + options.variant
            named = short(contexts.get(base, stages[base].base)) + ", " + named
        steps.append(Step(stage, text("about_" + stage.replace("-", "_")), named, f"{CACHE}:{tag}", tag in kept))
    return steps


def plan_text(
    options: argparse.Namespace,
    settings: "dict[str, str]",
    contexts: "dict[str, str]",
    steps: "list[Step]",
    engine: str,
) -> str:
    told = short(settings["COMMIT"])
    lines = [text("plan", variant=options.variant, why=options.why, commit=told, engine=engine), ""]
    rows = [(text("stage"), text("state"), text("what"), text("pins"))]
    rows += [(step.stage, text("cached" if step.cached else "to_build"), step.about, step.pins) for step in steps]
    widths = [max(cells(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        # the last column is not padded, so the rows are the longer ones; strict= needs Python 3.10
        padded = [entry + " " * (width - cells(entry)) for entry, width in zip(row, widths)]  # noqa: B905
        lines.append("  " + "  ".join([*padded, row[3]]))
    lines += ["", f"  MAX_JOBS  {settings['MAX_JOBS']} ({options.jobs_why})"]
    if options.variant == "cuda":
        lines.append(f"  GPUs      {settings['TORCH_CUDA_ARCH_LIST']} ({text('arch')})")
    if settings["WITH_APEX"] == "0":
        lines.append("  apex      " + text("no_apex" if options.variant == "cuda" else "apex_is_cuda"))
    lines += ["  " + text("taken", name=name, place=place) for name, place in sorted(contexts.items())]
    missing = sum(not step.cached for step in steps)
    lines += ["", text("summary", cached=len(steps) - missing, all=len(steps), missing=missing)]
    return "\n".join(lines) + "\n"


def cells(words: str) -> int:
    """Columns that a text takes in a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in words)


# ---- building --------------------------------------------------------------------------------------------------------
def build(
    options: argparse.Namespace,
    settings: "dict[str, str]",
    contexts: "dict[str, str]",
    steps: "list[Step]",
) -> "dict[str, float]":
    """Build what is not kept yet; {stage: seconds}. Stops at the first stage that fails."""
    times = {}
    secret = write_pip_settings()
    try:
        for number, step in enumerate(steps, 1):
            names = [f"easyllm-{step.stage}:{options.variant}"] if step.stage in TARGETS else []
            if step.cached:
                for name in names:
                    call(["docker", "tag", step.image, name])
                continue
            say(f"[{number}/{len(steps)}] {step.stage}: {step.about}")
            replaced = dict(contexts)
            replaced.update({entry.stage: "docker-image://" + entry.image for entry in steps[: number - 1]})
            started = time.monotonic()
            if call(build_command(step, settings, replaced, secret, names)):
                bootstrap.stop(text("failed", stage=step.stage), text("failed_fix"))
            times[step.stage] = time.monotonic() - started
    finally:
        if secret:
            os.unlink(secret)
    return times


def build_command(
    step: Step, settings: "dict[str, str]", contexts: "dict[str, str]", secret: "str | None", names: "list[str]"
) -> "list[str]":
    """The docker command of one step."""
    declared = set(re.findall(r"^ARG (\w+)", bootstrap.read(DOCKERFILE), flags=re.MULTILINE))
    command = ["docker", "build", "--file", DOCKERFILE, "--target", step.stage, "--tag", step.image]
    for name in names:
        command += ["--tag", name]
    for key in sorted(declared & set(settings)):
        command += ["--build-arg", f"{key}={settings[key]}"]
    for key in PROXIES:
        if os.environ.get(key):
            command += ["--build-arg", key]  # by name only: docker reads the value, the process list does not show it
    for name, place in sorted(contexts.items()):
        command += ["--build-context", f"{name}={place}"]
    if secret:
        command += ["--secret", f"id=pip,src={secret}"]
    return [*command, ROOT]


def write_pip_settings() -> "str | None":
    """pip's settings of this environment as a file for BuildKit's secret mount; None where there are none."""
    extra = [os.environ.get(key, "") for key in ("PIP_EXTRA_INDEX_URL", "TORCH_INDEX")]
    entries = {
        "no-index": os.environ.get("PIP_NO_INDEX", ""),
        "index-url": os.environ.get("PIP_INDEX_URL", ""),
        "extra-index-url": " ".join(entry for entry in extra if entry.startswith("http")),
        "trusted-host": os.environ.get("PIP_TRUSTED_HOST", ""),
    }
    lines = [f"{key} = {value}" for key, value in entries.items() if value]
    if not lines:
        return None
    handle, path = tempfile.mkstemp(prefix="easyllm-pip-")
    with os.fdopen(handle, "w") as file:
        file.write("[global]\n" + "\n".join(lines) + "\n")
    return path


def built_text(options: argparse.Namespace, steps: "list[Step]", times: "dict[str, float]") -> str:
    lines = [""]
    for step in steps:
        size = ask(["docker", "image", "inspect", "--format", "{{.Size}}", step.image])
        spent = f"{times[step.stage]:6.0f} s" if step.stage in times else "  " + text("cached")
        lines.append(f"  {step.stage:<20} {spent}  {int(size or 0) / 1e9:8.2f} GB")
    images = ", ".join(f"easyllm-{target}:{options.variant}" for target in options.target)
    lines += ["", text("built", images=images)]
    return "\n".join(lines)


def write_env(variant: str) -> None:
    """.env for docker compose: which files and images hold on this machine. Lines of your own stay."""
    pins = bootstrap.read_pins(bootstrap.PINS)
    uid, gid = (os.getuid(), os.getgid()) if hasattr(os, "getuid") else (0, 0)
    ours = {
        "COMPOSE_FILE": "compose.yaml" if variant == "cuda" else "compose.yaml:docker/compose.cpu.yaml",
        "EASYLLM_SERVING_IMAGE": "easyllm-serving:" + variant,
        # root would serve as root: the image's own user instead
        "EASYLLM_UID": str(uid or 10001),
        "EASYLLM_GID": str(gid or 10001),
        "VLLM_IMAGE": pins["VLLM_IMAGE"],
        "TGI_IMAGE": pins["TGI_IMAGE"],
    }
    path = os.path.join(ROOT, ".env")
    old = bootstrap.read(path).splitlines() if os.path.isfile(path) else []
    mark = "# written by make build; lines of your own stay"
    own = [line for line in old if line.split("=")[0] not in ours and line != mark]
    partial = path + ".partial"
    with open(partial, "w") as file:
        file.write("\n".join([*own, mark, *(f"{key}={value}" for key, value in ours.items())]) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def prune(options: argparse.Namespace) -> int:
    """Remove the kept stages that neither variant's present plan uses."""
    ask_engine()
    used = set()
    for variant in ("cuda", "cpu"):
        options.variant = variant
        settings = settings_of(options)
        used |= {step.image for step in make_plan(options, settings, contexts_of(options, settings))}
    tags = ask(["docker", "image", "ls", CACHE, "--format", "{{.Repository}}:{{.Tag}}"]).split()
    unused = sorted(set(tags) - used)
    if unused:
        call(["docker", "image", "rm", *unused])
    print(text("pruned", unused=len(unused), all=len(tags)))
    return 0


# ---- the engine ------------------------------------------------------------------------------------------------------
def ask_engine() -> str:
    """Such as Docker 28.2.2; or a message and exit 2 where it cannot build."""
    if not shutil.which("docker"):
        bootstrap.stop(text("no_docker"), text("no_docker_fix"))
    version = ask(["docker", "version", "--format", "{{.Server.Version}}"])
    if not version:
        bootstrap.stop(text("no_engine"), text("no_engine_fix"))
    if int(version.split(".")[0]) < OLDEST_ENGINE:
        bootstrap.stop(text("old_engine", version=version), text("no_docker_fix"))
    if not ask(["docker", "buildx", "version"]):
        bootstrap.stop(text("no_buildx"), text("no_buildx_fix"))
    return "Docker " + version


def call(command: "list[str]") -> int:
    return subprocess.run(command).returncode


def say(text: str) -> None:
    print(text)
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say(text("interrupted"))
        sys.exit(130)
