"""The doctor on recorded machines: what it can run, what it cannot, and the fix."""

import json
from dataclasses import replace

import pytest

from easyllm.env.doctor import NEEDED, Machine, abilities, judge, text

PINS = dict.fromkeys(NEEDED, "1.0")
LAPTOP = Machine(
    system="Linux", wsl=False, python="3.11.7", cores=4, memory_bytes=16 * 10**9, disk_free_bytes=10**11,
    shm_bytes=8 * 10**9, cpu_bf16=False, gpus=(), docker=None, packages=PINS, pins=PINS,
)  # fmt: skip


def finding(machine: Machine, name: str):
    return next(entry for entry in judge(machine) if entry.name == name)


def test_a_laptop_without_gpu_and_docker_runs_the_pipeline() -> None:
    assert abilities(judge(LAPTOP)) == {"pipeline_on_cpu": True, "pipeline_on_gpu": False, "container": False}
    assert finding(LAPTOP, "gpu").verdict == "care"


def test_a_gpu_box_runs_everything() -> None:
    box = replace(LAPTOP, gpus=("NVIDIA H100, 81559 MiB, 9.0, 580.65",), docker="28.2.2")
    assert all(abilities(judge(box)).values())


@pytest.mark.parametrize(
    ("change", "name", "verdict", "word"),
    [
        ({"system": "Windows"}, "system", "missing", "WSL2"),
        ({"python": "3.9.18"}, "python", "missing", "3.11"),
        ({"memory_bytes": 4 * 10**9}, "memory", "care", "8 GB"),
        ({"disk_free_bytes": 10**9}, "disk", "care", "runs_dir"),
        ({"shm_bytes": 64 << 20}, "/dev/shm", "care", "--ipc=host"),
        ({"packages": {}}, "torch", "missing", "make setup"),
        ({"packages": PINS | {"peft": "0.9"}}, "peft", "care", "1.0"),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(change: dict, name: str, verdict: str, word: str) -> None:
    found = finding(replace(LAPTOP, **change), name)
    assert found.verdict == verdict
    assert word in found.fix
    assert found.fix in text(judge(replace(LAPTOP, **change)))


def test_a_local_build_of_a_pinned_version_is_the_pinned_version() -> None:
    assert finding(replace(LAPTOP, packages=PINS | {"torch": "1.0+cpu"}), "torch").verdict == "good"


def test_doctor_answers_as_text_and_as_json(easyllm) -> None:
    assert "make demo" in easyllm("doctor").stdout
    document = json.loads(easyllm("doctor", "--json").stdout)
    assert document["abilities"]["pipeline_on_cpu"] is True
    assert {"system", "torch"} <= {entry["name"] for entry in document["findings"]}
