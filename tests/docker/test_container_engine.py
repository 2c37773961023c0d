"""The engine of the tests: there in a moment the second time, and one line where it cannot be."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from docker_house import STANDIN, Engine

ENGINE = Path(__file__).with_name("engine.py")
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def test_engine_that_runs_is_found_again_in_a_moment(engine: Engine) -> None:
    started = time.monotonic()
    command = [sys.executable, str(ENGINE), "up"]
    done = subprocess.run(command, env=engine.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "found running\n"), done.stderr
    assert time.monotonic() - started < 10


def test_containers_start_with_the_flags_of_a_gpu_machine(engine: Engine, gpu_flags: None) -> None:
    for asked in ("all", '"device=0,1"'):
        said = engine.inside(STANDIN, "env", "--gpus", asked).stdout
        assert f"NVIDIA_VISIBLE_DEVICES={'all' if asked == 'all' else '0,1'}" in said


def test_folder_that_no_socket_fits_in_is_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ENGINE), "up", "--prefix", str(tmp_path / ("deep" * 30))]
    nobody = {"PATH": "/usr/bin:/bin", "DOCKER_HOST": "unix:///nowhere/docker.sock"}
    done = subprocess.run(command, env=nobody, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
