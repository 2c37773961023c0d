"""What can be asked of ``serve``."""

from typing import Annotated, Literal

from pydantic import Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section

AdapterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ServeConfig(Section):
    """Serve one model over HTTP; in a pipeline, rehearse that and ask it the prompts of ``ask``."""

    model: Annotated[str, Takes("model", "model")] = "merge"
    """The model: a stage's artifact, a directory, a .gguf file, hf:org/name or package:NAME."""
    engine: Literal["embedded", "remote"] = "embedded"
    """Who generates: this process with transformers, or a server such as vLLM that stands behind our API."""
    remote: str | None = None
    """Engine remote: base address of an OpenAI-compatible server of the same model, such as http://vllm:8000/v1."""
    remote_key_variable: Annotated[str, Field(min_length=1)] | None = None
    """Engine remote: name of the environment variable that holds that server's API key; unset: it needs none."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """Model id in /v1/models; unset: the recipe's name. ``tgi`` and ``dummy`` always mean it too."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets other machines in; there is no password yet."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """TCP port of ``easyllm serve``. A pipeline's rehearsal takes a free one of its own."""
    max_concurrent_requests: Annotated[int, Field(ge=1)] = 8
    """Requests answered at once, in one batch; one more is refused with 429 rather than kept waiting."""
    max_total_tokens: Annotated[int, Field(ge=2)] | None = None
    """Prompt and answer together, in tokens; unset: 2048, or the model's own limit where that is lower."""
    max_input_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest prompt, in tokens; unset: max_total_tokens - 1."""
    drain_seconds: Annotated[int, Field(ge=1)] = 30
    """After SIGTERM, how long answers under way may still run before they are cut."""
    ask: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Prompts that the pipeline's rehearsal asks through the openai and the huggingface_hub client."""
    ask_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest answer to a prompt of ``ask``, in tokens."""
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
