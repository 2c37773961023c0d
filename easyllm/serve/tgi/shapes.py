"""What the routes of text-generation-inference answer. The document of the API is made of these."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from easyllm.serve.contract import Finish
from easyllm.serve.shapes import closed


@closed
class TgiError(TypedDict):
    """Every refusal and failure outside /v1, as a body or as the last event of a stream."""

    error: str
    error_type: str


@closed
class PrefillToken(TypedDict):
    id: int
    text: str
    logprob: float | None
    """None of the first token, which nothing stands before."""


@closed
class TgiToken(TypedDict):
    id: int
    text: str
    logprob: float
    special: bool


@closed
class Told(TypedDict):
    """One answer's details."""

    finish_reason: Finish
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[TgiToken]
    top_tokens: NotRequired[list[list[TgiToken]]]


@closed
class Sequence(Told):
    """One of several answers that was not the best."""

    generated_text: str


@closed
class Details(Told):
    best_of_sequences: NotRequired[list[Sequence]]


@closed
class Generated(TypedDict):
    generated_text: str
    details: NotRequired[Details]


@closed
class StreamDetails(TypedDict):
    finish_reason: Finish
    generated_tokens: int
    seed: int | None
    input_length: int


@closed
class TokenEvent(TypedDict):
    """One event of a stream; the last one has the whole text."""

    index: int
    token: TgiToken
    top_tokens: NotRequired[list[TgiToken]]
    generated_text: str | None
    details: StreamDetails | None


@closed
class SimpleToken(TypedDict):
    id: int
    text: str
    start: int
    stop: int


@closed
class Deployment(TypedDict):
    """What easyllm tells of itself beyond text-generation-inference."""

    engine: str
    uptime_seconds: float
    max_queued_requests: int
    lineage_digest: str | None
    """Equal for equal weights made by equal settings from equal inputs; None of a model that easyllm did not make."""
    manifest: dict[str, Any] | None
    """Of the deployed model, without settings, files and paths."""


@closed
class ChatTokens(TypedDict):
    tokenize_response: list[SimpleToken]
    templated_text: str


class Info(Deployment):
    model_id: str
    model_sha: str | None
    model_pipeline_tag: None
    model_dtype: str | None
    model_device_type: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_top_n_tokens: int
    max_input_tokens: int
    max_total_tokens: int
    max_client_batch_size: int
    validation_workers: int
    router: Literal["easyllm"]
    version: str
