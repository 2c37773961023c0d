"""What can be asked of ``serve``."""

from typing import Annotated, Literal

from pydantic import Field

from easyllm.core.inputs import Takes
from easyllm.core.section import Section


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

    gguf: Annotated[str | None, Takes("model", "exports")] = None
    """Engine llama.cpp: the .gguf file, or an export or folder that has one. Tokenizer, template and end tokens stay
    those of ``model``. Unset: ``model`` is the .gguf file itself."""
