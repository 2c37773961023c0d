"""What can be asked of ``serve``."""

from typing import Annotated, Literal

from pydantic import Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section
from easyllm.serve.kubernetes_config import KubernetesConfig

AdapterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ServeConfig(Section):
    """Serve one model over HTTP; in a pipeline, rehearse that and ask it the prompts of ``ask``."""

    model: Annotated[str, Takes("model", "model")] = "merge"
    """The model: a stage's artifact, a directory, a .gguf file, hf:org/name or package:NAME."""
    engine: Literal["embedded", "llama.cpp", "remote"] = "embedded"
    """Who generates: this process with transformers or, from a GGUF file on CPUs, with llama.cpp; or a server such as
    vLLM that stands behind our API."""
    remote: str | None = None
    """Engine remote: base address of an OpenAI-compatible server of the same model, such as http://vllm:8000/v1."""
    remote_key_variable: Annotated[str, Field(min_length=1)] | None = None
    """Engine remote: name of the environment variable that holds that server's API key; unset: it needs none."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """Model id in /v1/models; unset: the recipe's name. ``tgi`` and ``dummy`` always mean it too."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets other machines in, and needs keys: see keys_file and open_without_keys."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """TCP port of ``easyllm serve``. A pipeline's rehearsal takes a free one of its own."""
    max_concurrent_requests: Annotated[int, Field(ge=1)] = 8
    """Requests answered at once, in one batch; more of them wait in a queue, see max_queued_requests."""
    max_total_tokens: Annotated[int, Field(ge=2)] | None = None
    """Prompt and answer together, in tokens; unset: 2048, or the model's own limit where that is lower."""
    max_input_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest prompt, in tokens; unset: max_total_tokens - 1."""
    drain_seconds: Annotated[int, Field(ge=1)] = 30
    """After SIGTERM, how long answers under way and requests that wait may still take before they are cut."""
    ask: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Prompts that the pipeline's rehearsal asks through the openai and the huggingface_hub client."""
    ask_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer to a prompt of ``ask``, in tokens."""
    max_queued_requests: Annotated[int, Field(ge=0)] = 64
    """Requests that may wait, in order of arrival, for one of max_concurrent_requests; one more is refused with 429."""
    keys_file: Annotated[str, Field(min_length=1)] | None = None
    """File with API keys, one a line, ``name:key`` or ``key``, # begins a comment; SIGHUP has it read again."""
    key_variable: Annotated[str, Field(min_length=1)] | None = None
    """Name of an environment variable with API keys as in keys_file, separated by commas. Both may be set."""
    open_without_keys: bool = False
    """Let other machines ask without any key; for a closed network, or a container whose port is on loopback."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Requests per minute of each key, or of each client address where there are no keys; unset: no limit. Behind a
    proxy, the environment variable FORWARDED_ALLOW_IPS names the addresses whose X-Forwarded-For is believed."""
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Tokens per minute, in prompts and answers, of each key or client address; unset: no limit."""
    cors_origins: tuple[str, ...] = ()
    """Origins (https://host[:port], or * for all) whose pages may ask from a browser; none but our own page else."""
    host_names: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Without keys: domain names under which this server may be asked, besides addresses and names without a dot."""
    request_log: Annotated[str, Field(min_length=1)] | None = None
    """Where one line of JSON per request goes: stderr, or a file that SIGHUP opens again; unset: nowhere."""
    log_prompts: bool = False
    """Write prompts and answers into the request log too; without it nobody's words are kept."""

    kubernetes: KubernetesConfig | None = None
    """Where the manifest for Kubernetes puts the server; nothing else reads it."""
    gguf: Annotated[str | None, Takes("model", "exports")] = None
    """Engine llama.cpp: the .gguf file, or an export or folder that has one. Tokenizer, template and end tokens stay
    those of ``model``. Unset: ``model`` is the .gguf file itself."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Engine embedded: what it computes in; auto: float32 on a CPU, on a GPU bfloat16 where it is native."""
    prefix_cache: bool | None = None
    """Engine embedded: read prompts that begin alike once; unset: in float32, where no answer changes by it."""

    adapters: Annotated[dict[AdapterName, str], Takes("artifact", "adapter", foreign=True)] = Field(default={})
    """LoRA adapters of the model by the name that requests ask for: each a stage, or the directory of one (PEFT's)."""
    max_adapters: Annotated[int, Field(ge=1)] = 8
    """Adapters held at once."""
    max_adapter_rank: Annotated[int, Field(ge=1)] = 256
    """Largest rank of an adapter."""
    max_adapters_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    """Memory of all adapters together, in 10^9 bytes; they are kept in fp32."""
    admin: bool = False
    """Let adapters be loaded and unloaded over HTTP: POST /v1/load_lora_adapter and /v1/unload_lora_adapter."""
    adapters_dir: Annotated[str, Field(min_length=1)] | None = None
    """With admin: absolute path of the only folder that adapters are loaded from at run time."""
