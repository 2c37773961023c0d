"""The images as `make build` makes them: what was compiled is used, what they hold is written down, serving is lean."""

import json
from pathlib import Path
from typing import Any

import pytest

from docker_house import STANDIN, Build, Engine, House, Images
from easyllm.env.passport import faults

PROGRAMS = Path(__file__).with_name("programs")
pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]

# Every compiler that the image has, gone: what runs after this was compiled before.
DELETE_COMPILERS = "rm -f /usr/bin/*gcc* /usr/bin/*g++* /usr/bin/*c++* /usr/bin/cc /usr/bin/ld* /opt/venv/bin/ninja"


def program(name: str) -> tuple[str, ...]:
    return ("-v", f"{PROGRAMS / name}:/programs/{name}:ro")


def passport_of(engine: Engine, image: str) -> dict[str, Any]:
    passport: dict[str, Any] = json.loads(engine.inside(image, "cat $EASYLLM_PASSPORT").stdout)
    return passport


def inspect(engine: Engine, image: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(engine.docker("image", "inspect", image).stdout)
    return found[0]


def pins(house: House) -> dict[str, str]:
    lines = (house.folder / "docker/versions.env").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


# ---- building


def test_build_says_stages_pins_and_what_is_cached_before_it_builds(house: House, images: Images) -> None:
    plan = images.said.split("\n[")[0]
    for stage in ("toolchain", "torch", "apex", "deepspeed", "transformers", "peft", "train", "serving"):
        assert f"  {stage} " in plan
    for pin in ("PY_TORCH", "PY_DEEPSPEED", "PY_TRANSFORMERS", "PY_PEFT"):
        assert pins(house)[pin] in plan
    assert "stages are cached" in plan


def test_second_build_finds_every_stage_cached(images: Images, build: Build) -> None:
    again = build("cuda", "--plan").stdout
    assert "to build  " not in again, again
    assert ", 0 to build." in again


def test_env_file_tells_compose_which_images_hold_here(house: House, images: Images) -> None:
    lines = dict(line.split("=", 1) for line in (house.folder / ".env").read_text().splitlines() if "=" in line)
    assert lines["EASYLLM_SERVING_IMAGE"] == images.serving
    assert lines["COMPOSE_FILE"] == "compose.yaml"
    assert lines["EASYLLM_UID"] == str(house.uid)


# ---- train


def test_prebuilt_ops_load_without_compiler_and_network_and_match_torch(engine: Engine, images: Images) -> None:
    run = f"{DELETE_COMPILERS} && python -W ignore /programs/prebuilt_ops.py"
    done = engine.inside(images.train, run, "--user=0", *program("prebuilt_ops.py"))
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["compilers"] == []
    assert found["compiled"] == []
    assert all(file.startswith("/opt/venv/") for file in found["files"].values()), found
    assert found["difference"] < 1e-5


def test_op_built_for_another_accelerator_would_be_compiled_again(engine: Engine, images: Images) -> None:
    """The trap that the image avoids; where DeepSpeed no longer has it, the pinned accelerator can go."""
    run = f"{DELETE_COMPILERS} && python -W ignore /programs/prebuilt_ops.py"
    other = ("--user=0", "-e", "DS_ACCELERATOR=cpu")
    assert engine.inside(images.train, run, *other, *program("prebuilt_ops.py"), expect=None).returncode != 0


def test_compiled_code_runs_on_every_machine_of_the_stated_level(engine: Engine, images: Images) -> None:
    """-march=native would put the builder's own instructions in: AVX-512 beyond x86-64-v3 (SIGILL elsewhere)."""
    look = "objdump -d /opt/venv/lib/python3*/site-packages/deepspeed/ops/adam/cpu_adam_op*.so"
    counted = engine.inside(images.train, f"{look} > /tmp/code; grep -c ymm /tmp/code; grep -c zmm /tmp/code; true")
    avx2, avx512 = map(int, counted.stdout.split())
    assert passport_of(engine, images.train)["cpu_march"] == "x86-64-v3"
    assert avx2 > 0
    assert avx512 == 0


def test_passport_says_what_the_image_was_built_from(engine: Engine, house: House, images: Images) -> None:
    pinned = pins(house)
    commit = house.run("git", "rev-parse", "HEAD").stdout.strip()
    for image, target in ((images.train, "train"), (images.serving, "serving")):
        passport = passport_of(engine, image)
        assert passport["schema"] == 1
        assert (passport["image"], passport["target"], passport["variant"]) == (image, target, "cuda")
        assert passport["commit"] == commit
        assert passport["torch"].split("+")[0] == pinned["PY_TORCH"]
        assert passport["min_driver"] == pinned["CUDA_MIN_DRIVER"]
        assert passport["arch_list"] == pinned["TORCH_CUDA_ARCH_LIST"].split(";")
        assert passport["packages"]["transformers"] == pinned["PY_TRANSFORMERS"]
        for record in passport["wheels"].values():
            assert record["torch"] == passport["torch"]
            assert record["cxx11_abi"] == passport["cxx11_abi"]
    wheels = passport_of(engine, images.train)["wheels"]
    assert {"deepspeed", "transformers", "peft", "apex"} <= set(wheels)
    assert wheels["deepspeed"]["source"] == f"sha256:{pinned['DEEPSPEED_SHA256']}"
    assert wheels["deepspeed"]["accelerator"] == "cuda"
    assert [file.split("/")[-1].split(".")[0] for file in wheels["deepspeed"]["extensions"]] == [
        "cpu_adam_op",
        "utils_op",
    ]


def test_image_proves_again_that_it_fits_together(engine: Engine, images: Images) -> None:
    for image in (images.train, images.serving):
        engine.inside(image, "python -W ignore -m easyllm.env.passport check")


def test_wheel_that_does_not_fit_stops_the_build(engine: Engine, images: Images) -> None:
    """The last step of the build again, with one wheel's record changed: it names every fault and does not pass."""
    other = {"torch": "2.12.0+cu130", "cxx11_abi": False, "accelerator": "cpu", "extensions": ["deepspeed/gone.so"]}
    tamper = (
        "import json, pathlib; record = pathlib.Path('/opt/easyllm/wheels/deepspeed.json'); "
        f"record.write_text(json.dumps(json.loads(record.read_text()) | {other!r}))"
    )
    last_step = (
        'python -W ignore -m easyllm.env.passport write --target train --variant cuda --commit "" --arch-list 9.0 '
        "--march x86-64-v3 --cuda 13.0 --min-driver 580 --standin 1"
    )
    done = engine.inside(images.train, f'python -c "{tamper}" && {last_step}', "--user=0", expect=None)
    assert done.returncode != 0
    for complaint in (
        "the wheel of deepspeed was built against torch 2.12.0+cu130",
        "the wheel of deepspeed was built against cxx11_abi False",
        "the ops of deepspeed were built for cpu",
        "deepspeed.gone does not import",
    ):
        assert complaint in done.stderr


@pytest.mark.parametrize("name", ["einops", "bitsandbytes"])
def test_package_that_loses_its_pin_stops_the_build(engine: Engine, images: Images, name: str) -> None:
    """The image's last step sees it there and finds no pin."""
    passport = passport_of(engine, images.train)
    del passport["pins"][name]
    assert [fault for fault in faults(passport) if fault.startswith(f"{name} ")] != []


def test_any_user_works_in_the_train_image(engine: Engine, images: Images) -> None:
    run = "touch $HOME/mine && easyllm recipe ls && id -u && python -c 'import getpass; getpass.getuser()'"
    assert "4242" in engine.inside(images.train, run, "--user=4242:4242").stdout.split()


# ---- apex: the stage is optional, and nobody may fetch or compile it here


def test_apex_stage_compiles_with_the_chosen_flags_and_its_wheel_lands(engine: Engine, images: Images) -> None:
    run = "cat /opt/venv/lib/python3*/site-packages/apex/built_with.json"
    built_with = json.loads(engine.inside(images.train, run).stdout)
    passport = passport_of(engine, images.train)
    assert (built_with["APEX_CPP_EXT"], built_with["APEX_CUDA_EXT"]) == ("1", "1")
    assert built_with["TORCH_CUDA_ARCH_LIST"] == ";".join(passport["arch_list"])
    assert int(built_with["MAX_JOBS"]) >= 1
    assert built_with["torch"] == passport["torch"]
    assert passport["wheels"]["apex"]["source"].startswith("git:")


def test_without_apex_its_source_is_never_touched(engine: Engine, house: House) -> None:
    """The stage `apex` of the real Dockerfile with its real source, an upstream commit: nothing of it is asked for."""
    given = pins(house) | {"VARIANT": "cuda", "WITH_APEX": "0"}
    words = ["build", "--target", "apex", "--progress=plain"]
    words += ["--build-context", f"compilers-cuda=docker-image://{STANDIN}"]
    words += [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]
    done = engine.docker(*words, "-f", str(house.folder / "docker/Dockerfile"), str(house.folder))
    for word in ("github.com", "apex-src", "apex-build"):
        assert word not in done.stderr


# ---- serving


def test_serving_image_has_no_compiler_and_is_not_root(engine: Engine, images: Images) -> None:
    look = "id -u; for name in cc c++ gcc g++ clang ld make nvcc ninja git; do command -v $name; done; true"
    assert engine.inside(images.serving, look).stdout.split() == ["10001"]


def test_serving_image_runs_as_anybody_and_writes_nothing(engine: Engine, images: Images) -> None:
    hardened = ("--user=4242:4242", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL")
    assert "4242" in engine.inside(images.serving, "easyllm recipe ls && id -u", *hardened).stdout.split()


def test_images_carry_labels_and_serving_its_health_check(engine: Engine, house: House, images: Images) -> None:
    commit = house.run("git", "rev-parse", "HEAD").stdout.strip()
    for image in (images.train, images.serving):
        labels = inspect(engine, image)["Config"]["Labels"]
        for key in ("title", "description", "licenses"):
            assert labels[f"org.opencontainers.image.{key}"]
        assert labels["org.opencontainers.image.revision"] == commit
    config = inspect(engine, images.serving)["Config"]
    assert "http://127.0.0.1:8080/health" in config["Healthcheck"]["Test"][-1]
    assert config["User"] not in ("", "0", "root")


def test_image_is_stopped_by_a_wish_for_a_stage_it_does_not_have(build: Build) -> None:
    done = build("cuda", "--context=aepx-src=tests", expect=None)
    assert done.returncode != 0
    assert "no stage aepx-src" in done.stdout + done.stderr


def test_build_leaves_no_package_index_in_the_image(engine: Engine, images: Images) -> None:
    """pip's settings reach the build as a secret: neither layers nor history know them."""
    history = engine.docker("history", "--no-trunc", images.train).stdout
    assert "index-url" not in history
    assert engine.inside(images.train, "cat /etc/pip.conf", expect=None).returncode != 0
