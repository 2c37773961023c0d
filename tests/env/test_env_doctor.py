"""The doctor on machines in their own words: what each can run, what it cannot, and the fix.

tests/env/machines/NAME.json holds what commands and files say on a machine, as ``python -m easyllm.env.observe``
records it. They are written by hand in the formats of those commands (those of Docker were seen here; no GPU was).
NAME.en.txt and NAME.zh.txt are the whole reports. After a change that is meant:
``EASYLLM_GOLDEN=write pytest tests/env/test_env_doctor.py`` writes them anew; read the difference.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from easyllm.env import doctor, machine, observe
from easyllm.env.observe import Answer, Record
from easyllm.env.verdicts import ON_HOST, Finding, Report, judge

MACHINES = Path(__file__).parent / "machines"
PROFILES = sorted(path.stem for path in MACHINES.glob("*.json"))
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def recorded(name: str) -> Record:
    return Record.from_document(json.loads((MACHINES / f"{name}.json").read_text("utf-8"))["record"])


def report_of(record: Record) -> Report:
    return judge(machine.read(record))


def changed(name: str, **change: Any) -> Record:
    """The recorded machine with some of its words replaced; dictionaries are merged, None takes an entry away."""
    record = recorded(name)
    for part, value in change.items():
        if isinstance(value, dict):
            merged = {**getattr(record, part), **value}
            value = {key: entry for key, entry in merged.items() if entry is not None}
        record = replace(record, **{part: value})
    return record


def finding(report: Report, name: str) -> Finding:
    return next(entry for entry in report.findings if entry.name == name)


def blocked(report: Report) -> dict[str, list[str]]:
    blockers: dict[str, list[str]] = doctor.document(report)["blocked_by"]
    return blockers


# ---- recorded machines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", PROFILES)
def test_each_recorded_machine_gets_exactly_its_report(
    name: str, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EASYLLM_LANG", language)
    report = report_of(recorded(name))
    golden = MACHINES / f"{name}.{language}.txt"
    if os.environ.get("EASYLLM_GOLDEN") == "write":
        golden.write_text(doctor.text(report), "utf-8")
    assert doctor.text(report) == golden.read_text("utf-8")
    for entry in report.findings:
        assert bool(entry.fix) == (entry.verdict != "good"), entry
        assert not re.search(r"\{\w*\}", entry.fix.replace("{{json .}}", "")), entry
        assert not entry.fix or bool(CHINESE.search(entry.fix)) == (language == "zh"), entry


def test_every_report_belongs_to_a_machine() -> None:
    assert {path.name.split(".")[0] for path in MACHINES.iterdir()} == set(PROFILES)


@pytest.mark.parametrize(
    ("name", "unable", "says"),
    [
        ("h100-box", set(), ""),
        ("driver-too-old", {"pipeline_on_gpu", "container_on_gpu"}, "needs driver 580.65.06 or newer"),
        (
            "no-container-toolkit",
            {"container_on_gpu", "quantised"},
            "sudo nvidia-ctk runtime configure --runtime=docker",
        ),
        ("volta-bf16", {"pipeline_on_gpu", "container_on_gpu", "bf16", "quantised"}, "ask for fp16"),
        ("volta-bf16", {"pipeline_on_gpu", "container_on_gpu", "bf16", "quantised"}, "no code for cards below 7.5"),
        ("windows-no-wsl2", set(ON_HOST), "wsl --set-version Ubuntu-22.04 2"),
        ("shm-64mb-in-container", set(), "--ipc=host"),
        ("shm-64mb-in-container", set(), "export DS_ACCELERATOR=cuda"),
        (
            "cpu-only",
            {"pipeline_on_gpu", "image_build", "container_on_cpu", "container_on_gpu", "compose_serving"}
            | {"bf16", "quantised"},
            "sudo systemctl start docker",
        ),
        ("wsl2-turing", {"pipeline_on_gpu", "compose_serving", "bf16", "quantised"}, "needs Compose 2.24"),
        ("cpu-image-old-processor", {"pipeline_on_cpu", "pipeline_on_gpu", "bf16"}, "lacks avx2 bmi2"),
        ("serving-image-without-gpu", {"serving_on_gpu"}, "--gpus all"),
    ],
)
def test_what_a_machine_cannot_do_is_named_with_its_fix(name: str, unable: set[str], says: str) -> None:
    report = report_of(recorded(name))
    assert set(blocked(report)) == unable
    assert says in doctor.text(report)


# ---- the host ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "name", "verdict", "says"),
    [
        ({"platform": {"python": "3.9.18"}}, "python", "missing", "3.11"),
        ({"platform": {"cores": 1}}, "cores", "care", "slowly"),
        ({"platform": {"memory_bytes": 4 * 10**9}}, "memory", "care", "8 GB"),
        ({"disks": {".": {"total": 10**12, "free": 10**9}}}, "disk", "care", "runs_dir"),
        ({"disks": {"docker": {"total": 10**12, "free": 10**9}}}, "docker disk", "care", "docker system prune"),
        ({"disks": {"/dev/shm": {"total": 64 << 20, "free": 0}}}, "/dev/shm", "care", "remount"),
        ({"packages": {"torch": None}}, "torch", "missing", "make setup"),
        ({"packages": {"peft": "0.9"}}, "peft", "care", "0.21.2"),
        ({"packages": {"torch": "2.13.0+cpu"}}, "torch", "care", "CUDA build"),
        ({"packages": {"bitsandbytes": None}}, "bitsandbytes", "care", "pip install bitsandbytes==0.50.2"),
        ({"platform": {"release": "4.4.0-19041-Microsoft"}}, "system", "missing", "wsl --set-version"),
    ],
)
def test_what_is_wrong_with_the_host_is_named(change: dict[str, Any], name: str, verdict: str, says: str) -> None:
    found = finding(report_of(changed("h100-box", **change)), name)
    assert found.verdict == verdict
    assert says in found.fix


def test_a_local_build_of_a_pinned_version_is_the_pinned_version() -> None:
    assert finding(report_of(recorded("cpu-only")), "torch").verdict == "good"


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        (None, "wsl --install -d Ubuntu-24.04"),
        ("  NAME              STATE           VERSION\n* docker-desktop    Running         2\n", "wsl --install"),
        ("  NAME      STATE      VERSION\n* Ubuntu    Running    1\n", "wsl --set-version Ubuntu 2"),
        ("  NAME      STATE      VERSION\n* Old       Stopped    1\n  Debian    Stopped    2\n", "wsl -d Debian"),
    ],
)
def test_windows_is_led_to_wsl2_from_where_it_is(listed: str | None, says: str) -> None:
    answer = Answer(0, listed) if listed else None
    report = report_of(changed("windows-no-wsl2", commands={observe.WSL: answer}))
    assert says in finding(report, "system").fix
    assert not any(doctor.document(report)["abilities"].values())


# ---- GPUs ----------------------------------------------------------------------------------------------------------

DEAD = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA"
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
UNKNOWN_FIELD = 'Field "compute_cap" is not a valid field to query.\n\n'


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"commands": {observe.GPUS: None}}, "nvidia-driver-580-server"),
        ({"commands": {observe.GPUS: Answer(9, DEAD)}}, "sudo modprobe nvidia"),
        ({"commands": {observe.GPUS: Answer(18, MISMATCH)}}, "sudo reboot"),
        ({"commands": {observe.GPUS: Answer(6, "No devices were found\n")}}, "sudo modprobe nvidia"),
        ({"commands": {observe.GPUS: Answer(None)}}, "sudo modprobe nvidia"),
        ({"commands": {observe.GPUS: None}, "platform": {"nvidia_cards": 0}}, "Everything runs on the CPU"),
        ({"commands": {observe.GPUS: None}, "platform": {"container": True}}, "--gpus all"),
    ],
)
def test_a_gpu_that_does_not_show_is_looked_for(change: dict[str, Any], says: str) -> None:
    report = report_of(changed("h100-box", **change))
    assert says in finding(report, "gpu").fix
    assert "gpu" in blocked(report)["pipeline_on_gpu"]


def test_a_driver_from_before_compute_capabilities_is_still_read() -> None:
    rows = Answer(0, "Tesla T4, 15109 MiB, 470.256.02\nTesla T4, 15109 MiB, 470.256.02\n")
    answers = {observe.GPUS: Answer(2, UNKNOWN_FIELD), observe.GPUS_OF_OLD: rows}
    report = report_of(changed("h100-box", commands=answers))
    assert finding(report, "gpu").value == "2 x Tesla T4, 15109 MiB"
    assert finding(report, "driver").verdict == "missing"
    assert "too old to tell" in finding(report, "compute capability").fix
    assert finding(report, "bf16").verdict == "care"


@pytest.mark.parametrize(("driver", "verdict"), [("580.65.06", "good"), ("580.65.05", "missing"), ("610.1", "good")])
def test_the_oldest_driver_is_the_pinned_one_to_the_last_digit(driver: str, verdict: str) -> None:
    answer = Answer(0, f"NVIDIA H100 NVL, 95830 MiB, 9.0, {driver}\n")
    assert finding(report_of(changed("h100-box", commands={observe.GPUS: answer})), "driver").verdict == verdict


@pytest.mark.parametrize(("driver", "verdict"), [("580.62", "good"), ("576.88", "missing")])
def test_under_wsl2_the_driver_is_windows_own(driver: str, verdict: str) -> None:
    answer = Answer(0, f"NVIDIA GeForce RTX 3060, 12288 MiB, 8.6, {driver}\n")
    found = finding(report_of(changed("wsl2-turing", commands={observe.GPUS: answer})), "driver")
    assert found.verdict == verdict
    assert verdict == "good" or "in Windows" in found.fix


@pytest.mark.parametrize(
    ("arches", "capability", "verdict"),
    [
        ("8.0", "8.9", "good"),  # code of a generation runs on its later cards
        ("8.9", "8.0", "care"),
        ("9.0", "10.0", "care"),
        ("9.0+PTX", "12.0", "good"),
        ("8.0;12.0", "12.0", "good"),
    ],
)
def test_cards_that_compiled_kernels_were_not_made_for_are_named(arches: str, capability: str, verdict: str) -> None:
    rows = Answer(0, f"NVIDIA Card, with a comma, [N/A], {capability}, 580.95.05\n")
    record = changed("h100-box", commands={observe.GPUS: rows}, pins={"TORCH_CUDA_ARCH_LIST": arches})
    found = finding(report_of(record), "compute capability")
    assert (found.value, found.verdict) == (capability, verdict)


def test_the_weakest_of_mixed_cards_decides() -> None:
    rows = Answer(0, "NVIDIA A10, 23028 MiB, 8.6, 580.95.05\nTesla T4, 15360 MiB, 7.5, 580.95.05\n")
    report = report_of(changed("h100-box", commands={observe.GPUS: rows}))
    assert "Tesla T4" in finding(report, "bf16").fix


# ---- Docker --------------------------------------------------------------------------------------------------------

DENIED = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get ..."
CLIENT_ONLY = '{"Client":{"Version":"28.5.1"},"Server":null}\n'


def answering(version: str) -> Answer:
    return Answer(0, json.dumps({"Client": {"Version": version}, "Server": {"Version": version}}) + "\n")


@pytest.mark.parametrize(
    ("commands", "name", "says"),
    [
        ({observe.DOCKER_VERSION: None}, "docker", "sudo apt-get install -y docker.io docker-buildx docker-compose-v2"),
        ({observe.DOCKER_VERSION: Answer(1, CLIENT_ONLY, DENIED)}, "docker", "usermod -aG docker"),
        ({observe.DOCKER_VERSION: Answer(None)}, "docker", "sudo systemctl restart docker"),
        ({observe.DOCKER_VERSION: Answer(1, CLIENT_ONLY, "Cannot connect to")}, "docker", "systemctl start docker"),
        ({observe.DOCKER_VERSION: Answer(0, "Podman in other words")}, "docker", "systemctl start docker"),
        ({observe.DOCKER_VERSION: answering("20.10.24+dfsg1")}, "docker", "needs Docker 25"),
        ({observe.BUILDX: Answer(1, "", "docker: unknown command: docker buildx")}, "buildx", "docker-buildx-plugin"),
        ({observe.BUILDX: Answer(0, "github.com/docker/buildx v0.7.1 05846896\n")}, "buildx", "0.8"),
        ({observe.COMPOSE: Answer(125, "", "unknown flag: --short")}, "compose", "docker-compose-plugin"),
        ({observe.COMPOSE: Answer(0, "2.23.3\n")}, "compose", "2.24"),
    ],
)
def test_a_docker_that_will_not_do_is_named_with_its_fix(
    commands: dict[str, Answer | None], name: str, says: str
) -> None:
    report = report_of(changed("h100-box", commands=commands))
    assert says in finding(report, name).fix
    assert name in {blocker for blockers in blocked(report).values() for blocker in blockers}


@pytest.mark.parametrize(
    ("distribution", "manager"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "apt-get"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "zypper"),
        ("", "apt-get"),
    ],
)
def test_the_container_toolkit_comes_from_the_distributions_own_package_manager(
    distribution: str, manager: str
) -> None:
    report = report_of(changed("no-container-toolkit", files={"/etc/os-release": distribution}))
    assert f"sudo {manager} install -y nvidia-container-toolkit &&" in finding(report, "nvidia-container-toolkit").fix


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "missing"),
        ({"commands": {observe.TOOLKIT: Answer(0, "NVIDIA Container Toolkit CLI version 1.18.0\n")}}, "missing"),
        ({"commands": {observe.RUNTIMES: Answer(0, "io.containerd.runc.v2\nnvidia\nrunc\n\n")}}, "good"),
        ({"commands": {observe.DEVICES: Answer(0, '[{"Source":"cdi","ID":"nvidia.com/gpu=0"}]\n')}}, "good"),
        ({"programs": ["nvidia-container-runtime-hook"]}, "good"),
    ],
)
def test_the_engine_knows_the_gpus_by_runtime_by_cdi_or_by_hook(change: dict[str, Any], verdict: str) -> None:
    found = finding(report_of(changed("no-container-toolkit", **change)), "nvidia-container-toolkit")
    assert found.verdict == verdict
    installed = observe.TOOLKIT in change.get("commands", {})
    assert ("source" in found.fix) == (verdict == "missing" and not installed)


# ---- images --------------------------------------------------------------------------------------------------------

TRAIN = observe.passport_command("easyllm-train:cuda")


def train_image(**change: Any) -> Record:
    """The H100 box, the passport of its train image changed."""
    stated = json.loads(recorded("h100-box").commands[TRAIN].stdout)
    return changed("h100-box", commands={TRAIN: Answer(0, json.dumps({**stated, **change}))})


@pytest.mark.parametrize(
    ("change", "verdict", "says"),
    [
        ({"nvcc": "12.8"}, "missing", "nvcc is 12.8"),
        ({"torch": "2.12.0+cu130"}, "missing", "built against torch"),
        ({"cuda": "12.8", "torch_cuda": "12.8", "nvcc": "12.8"}, "missing", "built against torch_cuda 13.0"),
        ({"min_driver": "590.10"}, "care", "driver 590.10"),
        ({"arch_list": ["8.0"]}, "care", "Add theirs to TORCH_CUDA_ARCH_LIST"),
        ({"arch_list": ["8.0", "9.0"]}, "care", "TORCH_CUDA_ARCH_LIST 8.0;9.0 → 8.0;8.6;8.9;9.0"),
        ({"commit": "0" * 40}, "care", "commit 000000000000 → 3f0c6a1de24b"),
        ({"commit": "unknown"}, "good", ""),
        ({"cpu_march": "x86-64-v2"}, "care", "CPU_MARCH x86-64-v2 → x86-64-v3"),
        ({"torch_cuda": None, "nvcc": None, "standin": True, "wheels": {}}, "care", "stand-in"),
        ({"schema": 2}, "care", "No passport"),
        ({"wheels": {"deepspeed": {}}}, "care", "No passport"),
    ],
)
def test_an_image_that_does_not_fit_this_machine_or_checkout_is_named(
    change: dict[str, Any], verdict: str, says: str
) -> None:
    found = finding(report_of(train_image(**change)), "easyllm-train:cuda")
    assert found.verdict == verdict, found
    assert says in found.fix


def test_an_image_without_a_passport_is_built_again() -> None:
    gone = Answer(1, "", "cat: /opt/easyllm/passport.json: No such file or directory")
    found = finding(report_of(changed("h100-box", commands={TRAIN: gone})), "easyllm-train:cuda")
    assert "make build" in found.fix


def test_a_passport_of_the_image_we_are_in_that_cannot_be_read_is_said() -> None:
    report = report_of(changed("shm-64mb-in-container", files={str(observe.PASSPORT): "{"}))
    assert "No passport" in finding(report, "image").fix


# ---- this machine --------------------------------------------------------------------------------------------------


def test_this_machine_answers_as_text_and_as_json(easyllm) -> None:
    assert "make demo" in easyllm("doctor").stdout
    document = json.loads(easyllm("doctor", "--json").stdout)
    assert document["abilities"]["pipeline_on_cpu"] is True
    assert document["blocked_by"].keys() == {name for name, able in document["abilities"].items() if not able}
    assert {"system", "torch", "memlock", "disk"} <= {entry["name"] for entry in document["findings"]}


def test_the_record_of_this_machine_is_a_profile_like_the_others() -> None:
    command = [sys.executable, "-m", "easyllm.env.observe"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    document = json.loads(done.stdout)
    assert document.keys() == json.loads((MACHINES / "cpu-only.json").read_text("utf-8")).keys()
    assert finding(report_of(Record.from_document(document["record"])), "torch").verdict == "good"


def test_every_recorded_command_is_one_that_is_asked() -> None:
    asked = {value for name, value in vars(observe).items() if name.isupper() and isinstance(value, str)}
    asked |= {observe.passport_command(image) for image in observe.IMAGES}
    for name in PROFILES:
        assert recorded(name).commands.keys() <= asked, name


def test_where_windows_has_no_fcntl_and_no_sysconf_the_doctor_still_answers() -> None:
    code = (
        "import os, sys; sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "del os.sysconf, os.sched_getaffinity\n"
        "sys.argv = ['easyllm', 'doctor', '--json']\n"
        "from easyllm.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["abilities"]["pipeline_on_cpu"] is True


def test_a_program_that_hangs_with_its_children_does_not_hang_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "docker"
    script.write_text("#!/bin/sh\nsleep 300\n")  # the sleep is a child that holds the pipe, as docker's plugins do
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(observe, "SECONDS", 1.0)
    began = time.monotonic()
    report = report_of(observe.observe())
    assert time.monotonic() - began < 10
    assert "systemctl restart docker" in finding(report, "docker").fix


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client here")
def test_a_docker_daemon_that_takes_calls_and_never_answers_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(path))
        daemon.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        monkeypatch.setattr(observe, "SECONDS", 2.0)
        report = report_of(observe.observe())
    assert "systemctl restart docker" in finding(report, "docker").fix
    assert "docker" in blocked(report)["image_build"]
