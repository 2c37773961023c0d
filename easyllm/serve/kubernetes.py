"""The manifest of the served model: Deployment, Service and PodDisruptionBudget, as plain YAML that runs without us."""

import json
from typing import Any

import yaml

from easyllm.core.errors import Problem, UserError, problem, refuse
from easyllm.core.nodes.trainjob import job_name
from easyllm.core.stage import Job
from easyllm.serve.config import ServeConfig
from easyllm.serve.engines.gguf import ENGINE
from easyllm.serve.kubernetes_config import KubernetesConfig
from easyllm.serve.plan import served_name

HEAD = """\
# Kubernetes 1.25 or later. Namespace, claim{secret} must be there: kubectl apply -f THIS_FILE
"""
PORT = 8080
MODEL, KEYS = "/model", "/keys"
KEYS_ENTRY = "keys"
USER = 10001
"""The serving image's own user."""
OURS = frozenset({"model", "host", "port", "name", "ask", "ask_tokens", "kubernetes", "keys_file", "key_variable"})
"""Keys of the section that the manifest settles itself, or that mean the rehearsal."""
LOCAL = ("adapters", "adapters_dir", "gguf")
"""Keys that name what lies on this machine."""
LEAVE_SECONDS = 5
"""Before a pod is told to end: until then every node has heard that it takes no more requests."""
SPARE_SECONDS = 15
"""After the server has cut what was left: to end in order."""
PROBE_SECONDS = 5


def manifest(job: Job[ServeConfig]) -> str:
    """The YAML documents. Raises UserError SERVE-048 and SERVE-075 to SERVE-078: pods cannot have that."""
    asked = job.config.kubernetes
    if asked is None:
        raise refuse("SERVE-075", stage="serve", key="serve.kubernetes")
    problems = pod_problems(job.config, asked)
    if problems:
        raise UserError(*problems)
    name = job_name(job.recipe, "-serve")
    documents = [deployment(job, asked, name), service(asked, name), budget(asked, name)]
    head = HEAD.format(secret=" and Secret" if asked.keys_secret else "")
    return head + yaml.dump_all(documents, Dumper=_Spelt, sort_keys=False, width=1000)


class _Spelt(yaml.SafeDumper):
    """Writes what occurs twice out twice: people read and change these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def pod_problems(config: ServeConfig, asked: KubernetesConfig) -> list[Problem]:
    """What the recipe sets and pods would not have, or would refuse to start with."""
    given = settings(config)
    found = []
    if not (asked.keys_secret or given.get("open_without_keys")):
        found.append(problem("SERVE-076", stage="serve", key="serve.kubernetes.keys_secret"))
    if config.remote_key_variable and not asked.keys_secret:
        variable = config.remote_key_variable
        found.append(problem("SERVE-077", stage="serve", key="serve.remote_key_variable", variable=variable))
    if asked.keys_secret and config.open_without_keys:  # the server itself refuses both at once
        found.append(problem("SERVE-048", stage="serve", key="serve.open_without_keys"))
    local = [name for name in LOCAL if given.get(name)]
    if config.engine == ENGINE and not config.gguf:  # the model is a .gguf file then, and a pod reads a directory
        local.append("model")
    if given.get("request_log", "stderr") != "stderr":
        local.append("request_log")
    return found + [problem("SERVE-078", stage="serve", key=f"serve.{name}", name=name) for name in local]


def settings(config: ServeConfig) -> dict[str, Any]:
    """What the recipe sets, as it would stand in it."""
    return config.model_dump(mode="json", exclude_unset=True)


def command(job: Job[ServeConfig], asked: KubernetesConfig, name: str) -> list[str]:
    """The container's: all that the recipe sets, and where a pod finds model and keys."""
    fixed: dict[str, Any] = {"host": "0.0.0.0", "port": PORT, "name": served_name(job)}
    given = fixed | {key: value for key, value in settings(job.config).items() if key not in OURS}
    if asked.keys_secret:
        given["keys_file"] = f"{KEYS}/{KEYS_ENTRY}"
    elif given.get("open_without_keys"):
        # a server without keys answers to names that it knows: a page in a browser must not reach it by another one
        inside = f"{name}.{asked.namespace}"
        given["host_names"] = [*given.get("host_names", []), inside, f"{inside}.svc", f"{inside}.svc.cluster.local"]
    return ["easyllm", "serve", MODEL, *[f"serve.{key}={word(value)}" for key, value in given.items()]]


def word(value: Any) -> str:
    """A value as an override takes it: YAML on one line."""
    return value if isinstance(value, str) and is_plain(value) else json.dumps(value, ensure_ascii=False)


def is_plain(text: str) -> bool:
    """Whether YAML reads the text as what it is, without quotes."""
    try:
        return bool(yaml.safe_load(text) == text)
    except (yaml.YAMLError, ValueError):  # ValueError: 2026-99-99 is no date
        return False


def labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "easyllm", "app.kubernetes.io/instance": name}


def metadata(asked: KubernetesConfig, name: str) -> dict[str, Any]:
    return {"name": name, "namespace": asked.namespace, "labels": labels(name)}


def deployment(job: Job[ServeConfig], asked: KubernetesConfig, name: str) -> dict[str, Any]:
    """A pod is replaced only once the next one answers; it ends when its answers have, or drain_seconds are over."""
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": LEAVE_SECONDS + job.config.drain_seconds + SPARE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(job, asked, name)],
        "volumes": volumes(asked),
    }  # fmt: skip
    if asked.replicas > 1:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels(name)},
            }
        ]  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(asked, name),
        "spec": {
            "replicas": asked.replicas,
            "progressDeadlineSeconds": (asked.start_minutes + 5) * 60,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "selector": {"matchLabels": labels(name)},
            "template": {"metadata": {"labels": labels(name)}, "spec": pod},
        },
    }


def container(job: Job[ServeConfig], asked: KubernetesConfig, name: str) -> dict[str, Any]:
    return {
        "name": "serving",
        "image": asked.image,
        "command": command(job, asked, name),
        "env": environment(job.config, asked),
        "ports": [{"name": "http", "containerPort": PORT}],
        **probes(job.config, asked),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVE_SECONDS)]}}},
        "resources": resources(asked),
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts(asked),
    }  # fmt: skip


def environment(config: ServeConfig, asked: KubernetesConfig) -> list[dict[str, Any]]:
    """Threads of the engine; the remote engine's key from the Secret."""
    found: list[dict[str, Any]] = [{"name": "OMP_NUM_THREADS", "value": str(asked.cpus)}]
    if config.remote_key_variable:
        source = {"name": asked.keys_secret, "key": config.remote_key_variable}
        found.append({"name": config.remote_key_variable, "valueFrom": {"secretKeyRef": source}})
    return found


def probes(config: ServeConfig, asked: KubernetesConfig) -> dict[str, Any]:
    """/health says 503 while the model loads, and while the engine cannot answer.

    In front of a remote engine a pod lives as long as it listens: starting it again would not bring that one back.
    """
    health = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": PROBE_SECONDS, "timeoutSeconds": 10}
    listens = {"tcpSocket": {"port": "http"}}
    alive = listens if config.engine == "remote" else {"httpGet": health["httpGet"], "timeoutSeconds": 10}
    return {
        "startupProbe": health | {"failureThreshold": asked.start_minutes * 60 // PROBE_SECONDS},
        "readinessProbe": health | {"failureThreshold": 2},
        "livenessProbe": alive | {"periodSeconds": 10, "failureThreshold": 6},
    }


def resources(asked: KubernetesConfig) -> dict[str, Any]:
    """Memory is asked for whole and is the limit: what a pod may not have, it must not count on."""
    memory = f"{round(asked.memory_gb * 1000)}M"
    limits = {"memory": memory} | ({asked.gpu_resource: str(asked.gpus)} if asked.gpus else {})
    return {"requests": {"cpu": str(asked.cpus), "memory": memory}, "limits": limits}


def mounts(asked: KubernetesConfig) -> list[dict[str, Any]]:
    model: dict[str, Any] = {"name": "model", "mountPath": MODEL, "readOnly": True}
    if asked.path:
        model["subPath"] = asked.path
    found = [model, {"name": "scratch", "mountPath": "/tmp"}, {"name": "shared-memory", "mountPath": "/dev/shm"}]
    return [*found, {"name": "keys", "mountPath": KEYS, "readOnly": True}] if asked.keys_secret else found


def volumes(asked: KubernetesConfig) -> list[dict[str, Any]]:
    """The claim, scratch, memory that processes share (a pod has 64 MB of it else), and of the Secret one file."""
    found: list[dict[str, Any]] = [
        {"name": "model", "persistentVolumeClaim": {"claimName": asked.claim, "readOnly": True}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
    ]
    if asked.keys_secret:
        entries = [{"key": KEYS_ENTRY, "path": KEYS_ENTRY}]
        secret = {"secretName": asked.keys_secret, "defaultMode": 0o440, "items": entries}
        found.append({"name": "keys", "secret": secret})
    return found


def service(asked: KubernetesConfig, name: str) -> dict[str, Any]:
    """Inside the cluster only; whoever opens it to the world puts TLS before it."""
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    spec = {"type": "ClusterIP", "selector": labels(name), "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata(asked, name), "spec": spec}


def budget(asked: KubernetesConfig, name: str) -> dict[str, Any]:
    """Nodes are emptied one pod at a time. With one pod there is a gap, but no node that can never be emptied."""
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": labels(name)}}
    kind = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget"}
    return {**kind, "metadata": metadata(asked, name), "spec": spec}
