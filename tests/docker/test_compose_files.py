"""What the compose files say: images, user, lock-down. That they serve is shown by the container tests."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyllm.env.bootstrap import read_pins
from easyllm.pipeline import Recipe

ROOT = Path(__file__).parent.parent.parent
FILES = [ROOT / "compose.yaml", ROOT / "docker" / "compose.cpu.yaml"]


class Loader(yaml.SafeLoader):
    """YAML as Compose reads it: ``!reset`` takes a value of an earlier file away."""


Loader.add_constructor("!reset", lambda loader, node: "reset")


def services(path: Path = FILES[0]) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(path.read_text("utf-8"), Loader)["services"]
    return found


def test_no_image_and_no_version_stands_in_a_compose_file() -> None:
    for path in FILES:
        text = "\n".join(
            line.split(" #")[0] for line in path.read_text("utf-8").splitlines() if line.strip()[:1] != "#"
        )
        images = re.findall(r"image: (.*)", text)
        assert [image for image in images if not re.match(r'"\$\{[A-Z_]+:\?', image)] == []
        for value in read_pins(str(ROOT / "docker" / "versions.env")).values():
            if "/" in value or value.count(".") > 1:
                assert value not in text


def test_other_peoples_images_are_the_pinned_ones() -> None:
    pins = read_pins(str(ROOT / "docker" / "versions.env"))
    asked = {re.match(r"\$\{([A-Z_]+)", service["image"])[1] for service in services().values()}
    assert asked == {"EASYLLM_SERVING_IMAGE", "VLLM_IMAGE", "TGI_IMAGE"}
    assert asked - {"EASYLLM_SERVING_IMAGE"} <= set(pins)


def test_no_secret_can_be_written_into_them() -> None:
    for path in FILES:
        assert not re.search(r"(?i)(password|secret|token|api_?key)\s*[:=]", path.read_text("utf-8"))


@pytest.mark.parametrize("name", ["serving", "serving-vllm"])
def test_our_server_is_locked_down(name: str) -> None:
    service = services()[name]
    assert service["user"] == "${EASYLLM_UID:-10001}:${EASYLLM_GID:-10001}"
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["pull_policy"] == "never"
    assert service["restart"] == "unless-stopped"
    assert "healthcheck" not in service, "the image's own, for `docker run` too"


@pytest.mark.parametrize("name", list(services()))
def test_nothing_is_reached_from_outside_this_machine(name: str) -> None:
    service = services()[name]
    assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == []
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", list(services()))
def test_a_model_that_is_not_there_is_not_made_up_as_an_empty_folder(name: str) -> None:
    for volume in services()[name]["volumes"]:
        assert volume["bind"] == {"create_host_path": False}
        assert volume["read_only"] is True
        assert volume["target"] == "/model"


def test_vllm_stands_behind_our_server_alone() -> None:
    found = services()
    assert "ports" not in found["vllm"]
    assert found["vllm"]["networks"] == ["engine"]
    assert yaml.load(FILES[0].read_text("utf-8"), Loader)["networks"]["engine"] == {"internal": True}
    assert found["vllm"]["profiles"] == found["serving-vllm"]["profiles"] == ["vllm"]
    assert "deploy" not in found["serving-vllm"]


@pytest.mark.parametrize("name", ["serving", "serving-vllm"])
def test_the_command_is_one_that_easyllm_takes(name: str) -> None:
    program, verb, folder, *settings = services()[name]["command"]
    assert (program, verb, folder) == ("easyllm", "serve", "/model")
    section: dict[str, Any] = {}
    for key, value in (setting.split("=", 1) for setting in settings):
        section[key.removeprefix("serve.")] = yaml.safe_load(value)
    config = Recipe(name="it", serve=section).serve
    assert config
    assert (config.host, config.port) == ("0.0.0.0", 8080)


def test_every_gpu_is_reserved_and_the_cpu_file_takes_that_back() -> None:
    wanted = [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    for name in ("serving", "vllm", "tgi"):
        assert services()[name]["deploy"]["resources"]["reservations"]["devices"] == wanted
    assert services(FILES[1]) == {"serving": {"deploy": "reset"}}
