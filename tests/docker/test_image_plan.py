"""The plan of a build: what is kept, what is built again, what reaches docker. Needs no engine."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from easyllm.env import images
from easyllm.env.bootstrap import PINS, read_pins
from easyllm.env.images import STEPS, TARGETS, build_command, choose_jobs, write_pip_settings
from easyllm.env.stages import digest, read_stages, stage_keys

ROOT = Path(__file__).parent.parent.parent
ASKED = {
    "VARIANT": "cuda", "WITH_APEX": "1", "WITH_TRANSFORMER_ENGINE": "1", "MAX_JOBS": "2",
    "APT_MIRROR": "", "STANDIN": "0", "COMMIT": "c" * 40,
}  # fmt: skip
SETTINGS = read_pins(PINS) | ASKED
KEPT = {stage for stage, _ in STEPS}


def changed(**values: str) -> set[str]:
    """The kept stages that are built again when these settings change."""
    before, after = stage_keys(SETTINGS, {}), stage_keys(SETTINGS | values, {})
    return {name for name in KEPT if before[name] != after[name]}


@pytest.mark.parametrize(
    ("pin", "built_again"),
    [
        ("PEFT_SHA256", {"peft", "train"}),
        ("DEEPSPEED_SHA256", {"deepspeed", "train"}),
        ("TRANSFORMERS_SHA256", {"transformers", "train", "serving"}),
        ("APEX_COMMIT", {"apex", "train"}),
        ("PY_TORCH", KEPT - {"toolchain"}),
        ("CUDA_IMAGE", KEPT),
        ("BASE_IMAGE", {"serving"}),
        ("COMMIT", {"train", "serving"}),
        ("CPU_MARCH", {"deepspeed", "train", "serving"}),
        ("MAX_JOBS", set()),
    ],
)
def test_a_changed_pin_builds_again_what_rests_on_it_and_nothing_else(pin: str, built_again: set[str]) -> None:
    assert changed(**{pin: "changed"}) == built_again


def test_a_line_of_easyllm_never_compiles_a_wheel_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_keys(SETTINGS, {})
    monkeypatch.setattr("easyllm.env.stages.digest", lambda path: "changed" if path == "easyllm" else digest(path))
    after = stage_keys(SETTINGS, {})
    assert {name for name in KEPT if before[name] != after[name]} == set(TARGETS)


def test_a_local_source_takes_the_place_of_the_upstream_one(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    first = stage_keys(SETTINGS, {"deepspeed-src": str(tmp_path)})
    assert first["deepspeed"] != stage_keys(SETTINGS, {})["deepspeed"]
    (tmp_path / "setup.py").write_text("# another source")
    assert stage_keys(SETTINGS, {"deepspeed-src": str(tmp_path)})["deepspeed"] != first["deepspeed"]


def test_the_cpu_variant_never_stands_on_the_cuda_image() -> None:
    stages = read_stages(SETTINGS | {"VARIANT": "cpu", "WITH_APEX": "0", "WITH_TRANSFORMER_ENGINE": "0"})
    waiting, seen = list(TARGETS), set()
    while waiting:
        name = waiting.pop()
        if name in stages and name not in seen:
            seen.add(name)
            waiting += stages[name].needs
    assert not {"compilers-cuda", "runtime-cuda", "apex-build", "apex-src", "transformer-engine-src"} & seen


def test_jobs_follow_the_memory_that_the_user_gives() -> None:
    assert choose_jobs(7, None)[0] == 7
    assert choose_jobs(None, 1)[0] == 1
    assert choose_jobs(None, 1000)[0] == os.cpu_count()


def test_every_pin_and_no_secret_reaches_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:hidden@mirror.example/simple")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hidden@proxy.example:3128")
    secret = write_pip_settings()
    assert secret is not None
    assert oct(Path(secret).stat().st_mode & 0o777) == "0o600"
    assert "mirror.example" in Path(secret).read_text()
    step = images.Step("peft", "", "", "easyllm-build:peft-0", False)
    command = build_command(step, SETTINGS, {"wheels": "/w"}, secret, ["name:tag"])
    Path(secret).unlink()
    assert not [word for word in command if "hidden" in word]
    assert f"PY_PEFT={SETTINGS['PY_PEFT']}" in command
    assert "HTTPS_PROXY" in command
    assert command[-1] == str(ROOT)


def test_lines_of_your_own_stay_in_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ROOT", str(tmp_path))
    (tmp_path / ".env").write_text("PORT=9000\nCOMPOSE_FILE=old.yaml\n# mine\n")
    for variant in ("cuda", "cpu", "cpu"):
        images.write_env(variant)
    lines = (tmp_path / ".env").read_text().splitlines()
    assert "PORT=9000" in lines
    assert "# mine" in lines
    assert lines.count("COMPOSE_FILE=compose.yaml:docker/compose.cpu.yaml") == 1
    assert len(lines) == len(set(lines)), "nothing is written twice"
    assert f"VLLM_IMAGE={SETTINGS['VLLM_IMAGE']}" in lines


def build(*options: str, language: str = "en", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "easyllm/env/images.py", "build", "--plan", *options]
    env = {"PATH": os.environ["PATH"], "EASYLLM_LANG": language} | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_without_docker_the_build_says_what_to_install(tmp_path: Path) -> None:
    done = build(PATH=str(tmp_path))
    assert done.returncode == 2
    assert "Install Docker Engine" in done.stderr
    assert "请安装" in build(PATH=str(tmp_path), language="zh").stderr


@pytest.mark.parametrize(
    ("context", "word"), [("deepspede-src=/tmp", "deepspeed-src"), ("peft-src=/no/such/folder", "no such folder")]
)
def test_a_context_that_is_not_there_is_refused_by_name(context: str, word: str) -> None:
    done = build("--context", context)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_the_texts_exist_in_both_languages() -> None:
    from easyllm.env.words import TEXTS

    assert TEXTS["en"].keys() == TEXTS["zh"].keys()


def test_the_plan_names_every_stage_its_pins_and_its_state() -> None:
    options = argparse.Namespace(variant="cuda", why="asked for", jobs_why="asked for")
    steps = [
        images.Step("torch", "about", "py_torch 2", "x:torch-1", True),
        images.Step("train", "a", "p", "x:t", False),
    ]
    told = images.plan_text(options, SETTINGS, {"wheels": "/w"}, steps, "Docker 28")
    assert "torch  cached" in told
    assert "train  to build" in told
    assert "wheels is taken from /w" in told
    assert "1 of 2 stages are cached, 1 to build." in told
