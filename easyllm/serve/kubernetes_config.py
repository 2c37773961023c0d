"""What the generated manifest for Kubernetes names: ``serve.kubernetes``."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from easyllm.core.section import Section

Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A name as Kubernetes takes it."""


def no_way_up(path: str) -> str:
    """A path whose parts all lead down: Kubernetes starts no pod with a subPath that has another."""
    if ".." in path.split("/"):
        raise PydanticCustomError("way_up", "a path without ..")
    return path


class KubernetesConfig(Section):
    """A Deployment of the server with its Service; `easyllm plan RECIPE serve --kubernetes` prints the manifest."""

    image: Annotated[str, Field(min_length=1)]
    """Container image: easyllm-serving as your registry has it, best by its digest."""
    claim: Label
    """PersistentVolumeClaim that holds the model; the pods only read it."""
    path: Annotated[str, Field(pattern=r"^[^/.][^:]*$"), AfterValidator(no_way_up)] | None = None
    """The model's directory in the claim, such as mine/merge; unset: the claim is the directory."""
    namespace: Label = "default"
    """Namespace of all that is made, and of the claim."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """Pods that answer. More than one read the same claim, so it must be ReadOnlyMany or ReadWriteMany."""
    cpus: Annotated[int, Field(ge=1)] = 2
    """Processors of a pod, and threads of its engine."""
    memory_gb: Annotated[float, Field(ge=0.001, allow_inf_nan=False)]
    """Memory of a pod, in 10^9 bytes; `easyllm plan RECIPE serve` tells what weights and cache take of it."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of a pod; 0 serves on its processors."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name of the GPUs in the pods' limits."""
    keys_secret: Label | None = None
    """Secret whose entry ``keys`` is a file of API keys, mounted and never in a command line or an environment; its
    entry of the name in remote_key_variable, where that is set, is the key of the remote engine."""
    start_minutes: Annotated[int, Field(ge=1)] = 15
    """How long a pod may take to load the model before it is started again."""
