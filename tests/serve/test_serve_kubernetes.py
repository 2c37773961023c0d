"""`easyllm plan RECIPE serve --kubernetes`: a manifest that the cluster's own schemas accept, and that serves safely.

The documented manifest stands in golden/; after a change that is meant, EASYLLM_WRITE_GOLDEN=1 writes it anew.
"""

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from easyllm.core.errors import UserError
from easyllm.pipeline import open_project
from easyllm.serve.config import ServeConfig
from easyllm.serve.kubernetes import manifest
from easyllm.serve.plan import plan

GOLDEN = Path(__file__).parent / "golden" / "kubernetes.yaml"
ASKED: dict[str, Any] = {
    "image": "registry.example/easyllm-serving@sha256:0123", "claim": "models", "path": "mine/merge", "memory_gb": 8,
    "keys_secret": "api-keys", "namespace": "llm",
}  # fmt: skip
FULL = {"replicas": 2, "gpus": 1}
VERSIONS = ("1.25", "1.31", "1.37")
RECIPE = """name: mine
serve:
  max_concurrent_requests: 16
  drain_seconds: 60
  model: {model}
  kubernetes: {{image: easyllm-serving, claim: models, memory_gb: 2.5, keys_secret: api-keys}}
"""


@pytest.fixture
def serve_model(tmp_path: Path) -> Path:
    """What a manifest needs of a model: its JSON files. No weights, so no torch."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"max_position_embeddings": 256, "eos_token_id": 0}', "utf-8")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}', "utf-8")
    return folder


@pytest.fixture
def documents(serve_model: Path, serve_job: Any) -> Any:
    """``documents(replicas=2, serve={...})``: Deployment, Service and budget of the tiny model."""

    def make(serve: dict[str, Any] | None = None, **asked: Any) -> list[dict[str, Any]]:
        job = serve_job(serve_model, kubernetes=ASKED | asked, **(serve or {}))
        return list(yaml.safe_load_all(manifest(job)))

    return make


def pod(found: list[dict[str, Any]]) -> dict[str, Any]:
    inside: dict[str, Any] = found[0]["spec"]["template"]["spec"]
    return inside


def test_the_manifest_is_the_documented_one(serve_model: Path, serve_job: Any) -> None:
    settings = {"max_concurrent_requests": 16, "drain_seconds": 60, "name": "mine"}
    text = manifest(serve_job(serve_model, kubernetes=ASKED | FULL, **settings))
    if os.environ.get("EASYLLM_WRITE_GOLDEN"):
        GOLDEN.write_text(text, "utf-8")
    assert text == GOLDEN.read_text("utf-8")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_clusters_own_schemas_accept_it(documents: Any, version: str) -> None:
    for found in (documents(), documents(**FULL)):
        for document in found:
            assert kubernetes_validate.validate(document, version, strict=True) == version


def test_the_schemas_see_a_wrong_name(documents: Any) -> None:
    for path in (("replica",), ("template", "spec", "containers", 0, "livenesProbe"), ("selector", "matchLabel")):
        wrong = copy.deepcopy(documents()[0])
        place = wrong["spec"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = {}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_containers_command_is_one_that_easyllm_takes(documents: Any) -> None:
    (container,) = pod(documents({"max_concurrent_requests": 3, "ask": ["hello"], "name": "1.0"}))["containers"]
    program, verb, folder, *overrides = container["command"]
    assert (program, verb, folder) == ("easyllm", "serve", "/model")
    given = dict(word.removeprefix("serve.").split("=", 1) for word in overrides)
    assert given.pop("keys_file") == "/keys/keys"
    config = ServeConfig(**{key: yaml.safe_load(value) for key, value in given.items()})
    assert (config.host, config.port, config.name, config.max_concurrent_requests) == ("0.0.0.0", 8080, "1.0", 3)
    assert config.ask == ()
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/model"] == {"name": "model", "mountPath": "/model", "readOnly": True, "subPath": "mine/merge"}
    assert mounts["/keys"]["readOnly"]


@pytest.mark.parametrize("name", ["[x", "@x", "-x", "a: b", "2026-99-99", "x\ny", "&a"])
def test_a_name_that_yaml_reads_as_something_else_arrives_whole(documents: Any, name: str) -> None:
    (container,) = pod(documents({"name": name}))["containers"]
    (written,) = [word for word in container["command"] if word.startswith("serve.name=")]
    assert yaml.safe_load(written.removeprefix("serve.name=")) == name


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"memory_gb": float("inf")}, "finite"),
        ({"memory_gb": 0.0001}, "0.001"),
        ({"path": "a/../../b"}, "leads upwards"),
        ({"path": "a/.."}, "leads upwards"),
    ],
)
def test_what_kubernetes_would_not_take_is_refused(
    serve_model: Path, tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.format(model=serve_model), "utf-8")
    (key, value), *_ = wrong.items()
    written = ".inf" if value == float("inf") else value
    with pytest.raises(UserError, match=f"RECIPE-006 .*serve.kubernetes.{key}.*{told}"):
        open_project(path, [f"serve.kubernetes.{key}={written}"])


def test_paths_with_dots_that_lead_down_are_taken(documents: Any) -> None:
    for path in ("a/...", "a..b/c", "a/..c", "a/.b"):
        assert pod(documents(path=path))["containers"][0]["volumeMounts"][0]["subPath"] == path


def test_service_and_budget_are_of_these_pods_and_of_one_namespace(documents: Any) -> None:
    deployment, service, budget = documents()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == budget["spec"]["selector"]["matchLabels"] == labels
    (port,) = pod([deployment])["containers"][0]["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert {entry["metadata"]["namespace"] for entry in (deployment, service, budget)} == {"llm"}


def test_a_pod_has_longer_to_end_than_its_answers(documents: Any) -> None:
    for seconds in (1, 30, 600):
        found = pod(documents({"drain_seconds": seconds}))
        (container,) = found["containers"]
        wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert found["terminationGracePeriodSeconds"] >= wait + seconds + 10


def test_a_slow_start_is_no_reason_to_be_started_again(documents: Any) -> None:
    deployment, *_ = documents(start_minutes=40)
    (container,) = pod([deployment])["containers"]
    startup = container["startupProbe"]
    assert startup["httpGet"] == container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert startup["periodSeconds"] * startup["failureThreshold"] == 40 * 60
    assert deployment["spec"]["progressDeadlineSeconds"] > 40 * 60


def test_a_pod_has_no_more_rights_than_it_needs(documents: Any) -> None:
    found = pod(documents())
    (container,) = found["containers"]
    assert found["securityContext"]["runAsNonRoot"]
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not found["automountServiceAccountToken"]
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"]
    assert not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    writable = [mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    kinds = {volume["name"]: volume for volume in found["volumes"]}
    assert all("emptyDir" in kinds[name] for name in writable)
    assert kinds["keys"]["secret"]["defaultMode"] == 0o440
    assert "env" not in kinds["keys"]


def test_gpus_are_asked_for_by_number_and_none_by_nothing(documents: Any) -> None:
    def limits(**asked: Any) -> dict[str, str]:
        (container,) = pod(documents(**asked))["containers"]
        found: dict[str, str] = container["resources"]["limits"]
        return found

    assert limits() == {"memory": "8000M"}
    assert limits(gpus=2, gpu_resource="amd.com/gpu") == {"memory": "8000M", "amd.com/gpu": "2"}


def test_a_remote_engine_that_is_away_does_not_restart_the_pods(documents: Any) -> None:
    serve = {"engine": "remote", "remote": "http://vllm:8000/v1", "remote_key_variable": "VLLM_KEY"}
    (container,) = pod(documents(serve))["containers"]
    assert container["livenessProbe"]["tcpSocket"] == {"port": "http"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    source = {"secretKeyRef": {"name": "api-keys", "key": "VLLM_KEY"}}
    assert {"name": "VLLM_KEY", "valueFrom": source} in container["env"]
    assert "serve.remote=http://vllm:8000/v1" in container["command"]


def codes(job: Any) -> list[str]:
    with pytest.raises(UserError) as refused:
        manifest(job)
    return [entry.code for entry in refused.value.problems]


def test_the_plan_says_how_to_have_it(serve_model: Path, serve_job: Any) -> None:
    decisions = plan(serve_job(serve_model, kubernetes=ASKED)).decisions
    assert [entry.why for entry in decisions if entry.what == "kubernetes"] == [
        "the manifest: easyllm plan RECIPE serve --kubernetes"
    ]


def test_what_pods_would_not_have_is_refused(serve_model: Path, serve_job: Any) -> None:
    bare = {key: value for key, value in ASKED.items() if key != "keys_secret"}
    assert codes(serve_job(serve_model)) == ["SERVE-075"]
    assert codes(serve_job(serve_model, kubernetes=bare)) == ["SERVE-076"]
    remote = {"engine": "remote", "remote": "http://vllm:8000/v1", "remote_key_variable": "VLLM_KEY"}
    assert codes(serve_job(serve_model, kubernetes=bare, **remote)) == ["SERVE-076", "SERVE-077"]
    assert codes(serve_job(serve_model, kubernetes=ASKED, open_without_keys=True)) == ["SERVE-048"]
    for llama in ({}, {"gguf": str(serve_model)}):
        assert codes(serve_job(serve_model, kubernetes=ASKED, engine="llama.cpp", **llama)) == ["SERVE-078"]


def test_what_lies_on_this_machine_is_named(serve_model: Path, serve_job: Any) -> None:
    job = serve_job(serve_model, kubernetes=ASKED, request_log="log.jsonl")
    config = ServeConfig(**job.config.model_dump(exclude_unset=True), adapters={"mine": "finetune"})
    assert codes(replace(job, config=config)) == ["SERVE-078", "SERVE-078"]
    assert "serve.request_log=stderr" in manifest(serve_job(serve_model, kubernetes=ASKED, request_log="stderr"))


def test_without_keys_the_server_knows_the_services_own_names(serve_model: Path, serve_job: Any) -> None:
    bare = {key: value for key, value in ASKED.items() if key != "keys_secret"}
    text = manifest(serve_job(serve_model, kubernetes=bare, open_without_keys=True))
    (container,) = pod(list(yaml.safe_load_all(text)))["containers"]
    names = '["easyllm-demo-serve.llm", "easyllm-demo-serve.llm.svc", "easyllm-demo-serve.llm.svc.cluster.local"]'
    assert container["command"][-1] == f"serve.host_names={names}"
    assert "serve.open_without_keys=true" in container["command"]
    assert "/keys" not in text


def test_the_command_prints_nothing_but_the_manifest(easyllm: Any, serve_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.format(model=serve_model), "utf-8")
    found = list(yaml.safe_load_all(easyllm("plan", path, "serve", "--kubernetes").stdout))
    assert [document["kind"] for document in found] == ["Deployment", "Service", "PodDisruptionBudget"]
    assert pod(found)["containers"][0]["resources"]["limits"] == {"memory": "2500M"}
    assert "--kubernetes" in easyllm("plan", path, "merge", "--kubernetes", expect=2).stderr
    path.write_text(path.read_text().replace("claim: models, ", ""), "utf-8")
    assert "serve.kubernetes.claim" in easyllm("plan", path, "--kubernetes", expect=2).stderr
