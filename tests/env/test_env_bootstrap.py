"""The set-up finds the right Python, reads the pins, and does nothing where all is there."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from easyllm.env import bootstrap

WANTED = ["3.11", "3.12", "3.13"]


def test_pins_are_read_and_python_packages_named_as_pip_names_them(tmp_path: Path) -> None:
    file = tmp_path / "versions.env"
    file.write_text("# a comment\n\nPYTHON_VERSIONS=3.11 3.12\nPY_HUGGINGFACE_HUB=2.4.0\nOTHER=x\n")
    pins = bootstrap.read_pins(str(file))
    assert pins["PYTHON_VERSIONS"] == "3.11 3.12"
    assert bootstrap.python_pins(pins) == [("huggingface-hub", "2.4.0")]


def test_a_python_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYLLM_PYTHON", sys.executable)
    assert bootstrap.find_python(WANTED) == getattr(sys, "_base_executable", sys.executable)


def test_no_fitting_python_is_refused_with_what_was_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3.9\necho /usr/bin/python3.9\n")
    old.chmod(0o755)
    monkeypatch.setenv("EASYLLM_PYTHON", str(old))
    with pytest.raises(SystemExit) as stopped:
        bootstrap.find_python(WANTED)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "needs Python 3.11 or 3.12 or 3.13" in told
    assert str(old) in told
    assert "EASYLLM_PYTHON=" in told


def test_a_python_that_does_not_run_is_passed_over() -> None:
    assert bootstrap.version_of("no-such-python") == ("", "")


def test_a_ready_environment_is_ready_until_pins_or_python_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pins = tmp_path / "versions.env"
    pins.write_text("A=1\n")
    monkeypatch.setattr(bootstrap, "PINS", str(pins))
    monkeypatch.setattr(bootstrap, "STAMP", str(tmp_path / "stamp"))
    monkeypatch.delenv("EASYLLM_PYTHON", raising=False)
    assert not bootstrap.is_ready()
    Path(bootstrap.STAMP).write_text(f"{sys.executable}\n{bootstrap.fingerprint(sys.executable)}")
    assert bootstrap.is_ready()
    pins.write_text("A=2\n")
    assert not bootstrap.is_ready()
    pins.write_text("A=1\n")
    monkeypatch.setenv("EASYLLM_PYTHON", "another-python")
    assert not bootstrap.is_ready()


def test_of_an_activated_environment_the_python_beneath_is_taken(tmp_path: Path) -> None:
    """The set-up replaces .venv: an environment made from that very .venv would lose its Python."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    version, found = bootstrap.version_of(str(tmp_path / "venv" / "bin" / "python"))
    assert version == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert not Path(found).is_relative_to(tmp_path)
    assert Path(found).is_file()
    assert (
        subprocess.run([found, "-c", "import sys; sys.exit(sys.prefix != sys.base_prefix)"], check=False).returncode
        == 0
    )
