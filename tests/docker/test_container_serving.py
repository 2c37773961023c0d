"""`docker compose up serving`: the merged model behind both APIs, from the very files that a GPU machine uses."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from docker_house import Build, House

QUESTION = "What colour is the lighthouse of Quillhaven?"
pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]


class Service:
    """The one container that compose runs."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.url = f"http://127.0.0.1:{house.environment['PORT']}"

    def compose(self, *words: str, **environment: str) -> str:
        return self.house.run("docker", "compose", *words, **environment).stdout

    def up(self, **environment: str) -> None:
        done = self.house.run(
            "docker", "compose", "up", "--wait", "--wait-timeout", "600", "serving", expect=None, **environment
        )
        assert done.returncode == 0, done.stderr + self.compose("logs", "serving", **environment)

    def down(self) -> None:
        self.compose("down", "--timeout", "10")

    def container(self) -> dict[str, Any]:
        name = self.compose("ps", "-q", "serving").strip()
        found: list[dict[str, Any]] = json.loads(self.house.engine.docker("inspect", name).stdout)
        return found[0]


@pytest.fixture(scope="module")
def gpu_service(merged: House, build: Build) -> Iterator[Service]:
    build("cuda")  # the last build decides which files compose takes
    service = Service(merged)
    service.up()
    yield service
    service.down()


@pytest.fixture(scope="module")
def cpu_service(merged: House, build: Build) -> Iterator[Service]:
    build("cpu", "--target", "serving")
    service = Service(merged)
    service.up()
    yield service
    service.down()


def answers_both_apis(service: Service) -> None:
    from huggingface_hub import InferenceClient
    from openai import OpenAI

    with OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        (model,) = client.models.list().data
        answer = client.chat.completions.create(
            model=model.id, messages=[{"role": "user", "content": QUESTION}], max_tokens=16, temperature=0
        )
        assert model.id == "tiny-cpu"
        assert answer.choices[0].message.content
        assert answer.usage
        assert 0 < answer.usage.completion_tokens <= 16
    tgi = InferenceClient(base_url=service.url, timeout=300)
    words = tgi.text_generation("Quillhaven is", max_new_tokens=8, details=True)
    assert words.details
    assert 0 < words.details.generated_tokens <= 8
    assert words.generated_text


def test_gpu_compose_file_serves_the_merged_model_over_both_apis(gpu_service: Service) -> None:
    answers_both_apis(gpu_service)


def test_gpu_compose_file_reserves_the_gpus(gpu_service: Service) -> None:
    (request,) = gpu_service.container()["HostConfig"]["DeviceRequests"]
    assert request["Driver"] == "nvidia"
    assert request["Capabilities"] == [["gpu"]]
    assert request["Count"] == -1
    assert "NVIDIA_VISIBLE_DEVICES=all" in gpu_service.compose("exec", "-T", "serving", "env")


def test_server_is_not_root_listens_on_loopback_and_owns_nothing(gpu_service: Service, merged: House) -> None:
    container = gpu_service.container()
    assert container["Config"]["User"] == f"{merged.uid}:{merged.environment.get('EASYLLM_GID', merged.uid)}"
    (bindings,) = container["HostConfig"]["PortBindings"].values()
    assert [binding["HostIp"] for binding in bindings] == ["127.0.0.1"]
    assert container["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert all(not mount["RW"] for mount in container["Mounts"] if mount["Type"] == "bind")
    assert container["State"]["Health"]["Status"] == "healthy"


def test_cpu_override_serves_with_the_same_words(cpu_service: Service) -> None:
    container = cpu_service.container()
    assert not container["HostConfig"]["DeviceRequests"]
    assert container["Config"]["Image"] == "easyllm-serving:cpu"
    answers_both_apis(cpu_service)


def test_server_that_dies_is_started_again(cpu_service: Service) -> None:
    """Not `docker kill`, which counts as a wish to stop: the server itself ends."""
    before = cpu_service.container()["State"]["StartedAt"]
    cpu_service.compose("exec", "-T", "serving", "sh", "-c", "kill -KILL -1 || true")
    cpu_service.up()
    assert cpu_service.container()["State"]["StartedAt"] != before
    assert httpx.get(f"{cpu_service.url}/health", trust_env=False, timeout=60).status_code == 200


def test_compose_without_a_merged_model_says_what_is_missing(merged: House, build: Build, tmp_path: Any) -> None:
    service = Service(merged)
    empty = merged.folder / "empty"
    empty.mkdir(exist_ok=True)
    build("cpu", "--target", "serving")
    said = merged.run("docker", "compose", "run", "--rm", "--no-deps", "-T", "serving", expect=None, MODEL=str(empty))
    service.down()
    assert said.returncode != 0
    assert "make merge" in said.stdout + said.stderr
    assert "Traceback" not in said.stdout + said.stderr


@pytest.mark.parametrize("variant", ["cuda", "cpu"])
def test_compose_files_are_sound_with_the_env_that_the_build_writes(house: House, build: Build, variant: str) -> None:
    build(variant, "--target", "serving")
    for profiles in ([], ["--profile", "vllm"], ["--profile", "tgi"]):
        done = house.run("docker", "compose", *profiles, "config", "--quiet")
        assert done.stderr == ""
