"""What clients may send. A field is honoured, or accepted at its neutral value only; nothing is ignored."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from easyllm.serve.refusals import invalid

MOST_STOPS = 4
Neutral = Literal[False] | None
Stop = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]


class Body(BaseModel):
    """Unknown fields are refused; an explicit null means the same as leaving the field out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    name: None = None
    tool_calls: None = None  # text-generation 0.7 sends explicit nulls

    def plain(self) -> dict[str, str]:
        """As a chat template takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Neutral = None


class OpenAIBody(Body):
    """What both OpenAI routes share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    user: str | None = None
    """Names the caller to a provider's abuse desk; there is none here, and no answer depends on it."""
    n: Literal[1] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ResponseFormat(Body):
    type: Literal["text"]


class ChatBody(OpenAIBody):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: Neutral = None
    top_logprobs: None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    tool_prompt: None = None
    store: Neutral = None
    modalities: list[Literal["text"]] | None = None


class CompletionBody(OpenAIBody):
    prompt: (
        Annotated[str, Field(min_length=1)] | TokenIds | Annotated[list[TokenIds], Field(min_length=1, max_length=1)]
    )
    """A text, or token ids as they are; a list of one such list means that one."""
    echo: bool | None = None
    """The prompt stands before the answer, and with ``logprobs`` its tokens are scored too."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """The log-probability of each token that was chosen, and of so many likeliest ones at its place."""
    suffix: None = None
    best_of: Literal[1] | None = None
    return_token_ids: bool | None = None
    """vLLM's: the ids of the prompt and of the answer beside the text."""
    ignore_eos: bool | None = None
    stop_token_ids: list[TokenId] | None = None
    """vLLM's, like ignore_eos; together they must name the end tokens that the model has anyway."""
    min_p: Annotated[float, Field(ge=0, le=0)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1, le=1)] | None = None


class TgiParameters(Body):
    do_sample: bool | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    top_p: Annotated[float, Field(gt=0, lt=1)] | None = None
    top_k: Annotated[int, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    truncate: Annotated[int, Field(ge=1)] | None = None
    """Keep this many last tokens of the prompt."""
    details: bool | None = None
    return_full_text: bool | None = None
    best_of: Literal[1] | None = None
    adapter_id: Annotated[str, Field(min_length=1)] | None = None
    """Name of a LoRA adapter that the server has."""
    grammar: None = None
    watermark: Neutral = None
    decoder_input_details: Neutral = None
    top_n_tokens: Literal[0] | None = None
    repetition_penalty: Annotated[float, Field(ge=1, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    typical_p: Annotated[float, Field(ge=1, le=1)] | None = None


class TgiBody(Body):
    inputs: Annotated[str, Field(min_length=1)]
    parameters: TgiParameters | None = None
    stream: bool | None = None
    """Read by ``POST /`` only; the other two routes say it in their name."""


B = TypeVar("B", bound=Body)


def read(text: bytes, kind: type[B]) -> B:
    """The body as ``kind``, or a refusal that names the field and what it may be."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise invalid(_explain(first, param), param) from error


def _explain(entry: Any, param: str | None) -> str:
    if entry["type"] == "json_invalid":
        return f"the body is not valid JSON: {entry['ctx']['error']}"
    if entry["type"] == "extra_forbidden":
        return f"`{param}` is not supported by this server"
    if entry["type"] == "missing":
        return f"`{param}` is missing"
    return f"`{param}` cannot be {entry['input']!r} on this server: {entry['msg'][:1].lower()}{entry['msg'][1:]}"
