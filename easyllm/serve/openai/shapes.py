"""What the OpenAI routes answer. The document of the API is made of these, and the code is checked against them."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from easyllm.serve.shapes import closed

Finish = Literal["stop", "length", "tool_calls"]


@closed
class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


@closed
class OpenAIError(TypedDict):
    """Every refusal and failure below /v1, as a body or as the last event of a stream."""

    error: ErrorDetail


class ModelCard(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: NotRequired[int]
    """Tokens of a prompt and its answer together, at most."""
    root: NotRequired[str]
    parent: NotRequired[str | None]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelCard]


@closed
class Usage(TypedDict):
    """Tokens in and out, over all answers; an end token counts, since it was generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@closed
class OneLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


@closed
class TokenLogprob(OneLogprob):
    top_logprobs: list[OneLogprob]


@closed
class ChatLogprobs(TypedDict):
    content: list[TokenLogprob]


@closed
class CalledFunction(TypedDict):
    name: str
    arguments: str


@closed
class ToolCall(TypedDict):
    id: str
    type: Literal["function"]
    function: CalledFunction
    index: NotRequired[int]
    """In a stream only."""


@closed
class Said(TypedDict):
    """A message, or a stream's next part of it."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str | None]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]


@closed
class ChatChoice(TypedDict):
    index: int
    message: Said
    logprobs: ChatLogprobs | None
    finish_reason: Finish


@closed
class ChatCompletion(TypedDict):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


@closed
class ChatDelta(TypedDict):
    index: int
    delta: Said
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


@closed
class ChatChunk(TypedDict):
    """One event of a stream; the last is the text [DONE]."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatDelta]
    usage: NotRequired[Usage | None]


@closed
class CompletionLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


@closed
class PromptLogprob(TypedDict):
    logprob: float
    rank: int | None
    """From 1 on; None of a token that is not among the likeliest that were asked for."""
    decoded_token: str


@closed
class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    token_ids: NotRequired[list[int]]
    prompt_token_ids: NotRequired[list[int] | None]
    prompt_logprobs: NotRequired[list[dict[str, PromptLogprob] | None]]


@closed
class Completion(TypedDict):
    """A whole answer, and one event of a stream as well; the last event of a stream is the text [DONE]."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]
