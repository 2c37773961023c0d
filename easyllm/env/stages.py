"""docker/Dockerfile as a graph of stages, and the key of each: a digest over everything that decides its content."""

import hashlib
import json
import os
import re
import subprocess
from typing import NamedTuple

from easyllm.env import bootstrap

ROOT = bootstrap.ROOT
DOCKERFILE = os.path.join(ROOT, "docker", "Dockerfile")
OLDEST_ENGINE = 25
"""The first Docker whose own Dockerfile frontend takes a git commit in ADD."""
NOT_CONTENT = ("MAX_JOBS",)
"""Arguments that change how long a stage takes, never what it makes."""


class Stage(NamedTuple):
    """One stage of the Dockerfile."""

    base: str
    """What it stands FROM, arguments filled in: another stage, an image, or scratch."""
    text: str
    """Its instructions, without comments."""
    needs: "tuple[str, ...]"
    """Stages it takes something from."""
    arguments: "tuple[str, ...]"
    files: "tuple[str, ...]"
    """Files and folders of the checkout it copies."""


def read_stages(settings: "dict[str, str]") -> "dict[str, Stage]":
    """The stages of docker/Dockerfile by name."""
    stages = {}  # type: dict[str, Stage]
    for part in re.split(r"^(?=FROM )", bootstrap.read(DOCKERFILE), flags=re.MULTILINE)[1:]:
        lines = [line for line in part.splitlines() if line.strip() and not line.startswith("#")]
        first = re.match(r"FROM (\S+) AS (\S+)$", lines[0])
        if not first:
            raise ValueError(f"docker/Dockerfile: a stage without a name: {lines[0]}")
        base = re.sub(r"\$\{(\w+)\}", lambda found: settings[found.group(1)], first.group(1))
        body = "\n".join(lines[1:])
        takes = re.findall(r"from=([\w-]+)", body)
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", body, flags=re.MULTILINE)
        copied += re.findall(r"type=bind,source=([^,\s]+)", body)
        stages[first.group(2)] = Stage(
            base=base,
            text=body,
            needs=tuple(dict.fromkeys([base, *takes])),
            arguments=tuple(re.findall(r"^ARG (\w+)", body, flags=re.MULTILINE)),
            files=tuple(" ".join(copied).split()),
        )
    return stages


def stage_keys(settings: "dict[str, str]", contexts: "dict[str, str]") -> "dict[str, str]":
    """{stage: key}: twelve hex digits over everything that decides what the stage holds."""
    stages = read_stages(settings)
    keys = {}  # type: dict[str, str]

    def key_of(name: str) -> str:
        if name not in keys:
            if name in contexts:
                parts = ["context", place_identity(contexts[name])]  # type: list[object]
            elif name not in stages:  # an image of a registry, or scratch
                parts = ["image", name]
            else:
                stage = stages[name]
                given = {key: settings[key] for key in stage.arguments if key not in NOT_CONTENT}
                parts = [stage.text, given, [key_of(need) for need in stage.needs], [digest(f) for f in stage.files]]
            keys[name] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
        return keys[name]

    for name in stages:
        key_of(name)
    return keys


def place_identity(place: str) -> str:
    """What a context holds: an image's id, a folder's content, or the address itself."""
    if place.startswith("docker-image://"):
        image = place[len("docker-image://") :]
        return ask(["docker", "image", "inspect", "--format", "{{.Id}}", image]) or image
    return place if "://" in place else digest(place)


def digest(path: str) -> str:
    """sha256 over a file, or over every file of a folder with its name and whether it can be executed."""
    top = os.path.join(ROOT, path)
    total = hashlib.sha256()
    folders = os.walk(top) if os.path.isdir(top) else [(os.path.dirname(top), [], [os.path.basename(top)])]
    for folder, below, names in folders:
        below[:] = sorted(entry for entry in below if entry != "__pycache__")
        for name in sorted(names):
            file = os.path.join(folder, name)
            total.update(f"{os.path.relpath(file, top)}\0{os.access(file, os.X_OK)}\0".encode())
            with open(file, "rb") as content:
                for block in iter(lambda: content.read(1 << 20), b""):
                    total.update(block)
    return total.hexdigest()


def short(value: str) -> str:
    """A digest or commit by its first digits, anything else as it is."""
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{24,56}\b", r"\1", value)


def ask(command: "list[str]") -> str:
    """What a command prints, or nothing where it is not there, fails or does not answer."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode().strip() if done.returncode == 0 else ""
