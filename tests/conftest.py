"""What all tests share: the command line as a user calls it, and a recipe small enough to run in seconds."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tiny_pipeline import tiny_recipe

# One thread each for us, ranks and servers, before a test's module brings torch, which reads it once: two processes
# of tests with two threads each would spend most of their time waiting for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that starts tests in the background has this signal ignored, and so would every process whose Ctrl-C we try.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
Easyllm = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: of two processes that share the files, none is left alone with them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _one_language() -> None:
    """Tests read English texts whatever the machine speaks."""
    os.environ["EASYLLM_LANG"] = "en"


@pytest.fixture
def easyllm(tmp_path: Path, easyllm_in: Easyllm) -> Easyllm:
    """``easyllm("run", recipe, "--json")``: the real command in a process of its own, in ``tmp_path``."""
    return partial(easyllm_in, tmp_path)


@pytest.fixture(scope="session")
def easyllm_in() -> Easyllm:
    """``easyllm_in(folder, "run", recipe)``: the same in any folder, for what several tests look at."""

    def call(folder: Path, *arguments: Any, expect: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "easyllm", *map(str, arguments)]
        where = {"cwd": folder, "text": True, "capture_output": True, "timeout": 900} | options
        done = subprocess.run(command, check=False, **where)
        if expect is not None:
            assert done.returncode == expect, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for all tests together: making a model of a .gguf takes longer than what is then asked of it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny recipe, its corpus beside it."""
    return tiny_recipe(tmp_path)


@pytest.fixture(scope="session")
def cpu_adam(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """DeepSpeed's CPU Adam, compiled once a test run as the stage does it, but without the optimizer's minutes."""
    from easyllm.core.deepspeed_ops import prebuild

    folder = tmp_path_factory.mktemp("cpu-adam")
    compiler = folder / "c++-unoptimised"
    compiler.write_text('#!/bin/sh\nexec c++ "$@" -O0 -g0\n', "utf-8")
    compiler.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", str(compiler))
        return prebuild(folder, "cpu")
