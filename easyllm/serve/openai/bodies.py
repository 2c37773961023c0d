"""What the OpenAI routes take. Every field that is not here is refused by its name."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from easyllm.serve.bodies import MOST_STOPS, Body, Neutral, Stop
from easyllm.serve.contract import Grammar
from easyllm.serve.refusals import invalid

TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenKey = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
MOST_TOP_LOGPROBS = 20


class TextPart(Body):
    type: Literal["text"]
    text: str


class CalledFunction(Body):
    name: str
    arguments: str
    """The arguments as a JSON object, written as a string."""


class ToolCall(Body):
    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    """May be missing beside ``tool_calls`` only."""
    name: str | None = None
    """Refused where the model's chat template does not read it."""
    tool_calls: list[ToolCall] | None = None
    """The calls that an earlier answer made; refused where the model's chat template does not read them."""
    tool_call_id: str | None = None
    """Which call a tool's message answers; templates that number calls read it."""
    refusal: None = None

    def plain(self) -> dict[str, Any]:
        """As a chat template takes it: arguments as an object, no nulls."""
        parts = self.content if isinstance(self.content, list) else []
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in parts)
        found: dict[str, Any] = {"role": self.role, "content": text}
        if self.tool_calls:
            found["tool_calls"] = [_plain_call(call) for call in self.tool_calls]
        given = {"name": self.name, "tool_call_id": self.tool_call_id}
        return found | {key: value for key, value in given.items() if value is not None}


def _plain_call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise invalid(f"`arguments` of a tool call is not JSON: {error}", "messages") from error
    found = {"type": "function", "function": {"name": call.function.name, "arguments": arguments}}
    return found if call.id is None else {"id": call.id} | found


class Function(Body):
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """The arguments' JSON schema."""
    strict: bool | None = None
    """Refused unless ``tool_choice`` demands a call: that one is always held strictly to its schema."""


class Tool(Body):
    type: Literal["function"]
    function: Function

    def plain(self) -> dict[str, Any]:
        """As chat templates know it: description and parameters are always there."""
        nothing: dict[str, Any] = {"type": "object", "properties": {}}
        function = self.function
        said = {"description": function.description or "", "parameters": function.parameters or nothing}
        return {"type": "function", "function": {"name": function.name} | said}


class NamedFunction(Body):
    name: Annotated[str, Field(min_length=1)]


class NamedTool(Body):
    type: Literal["function"]
    function: NamedFunction


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Neutral = None


class AnyText(Body):
    type: Literal["text"]


class AnyObject(Body):
    type: Literal["json_object", "json"]
    """``json`` is what text-generation-inference calls it."""
    value: dict[str, Any] | None = None
    """text-generation-inference's: the schema; huggingface_hub turns json_schema into this for such a server."""


class AnyMatch(Body):
    type: Literal["regex"]
    """text-generation-inference's."""
    value: str


class NamedSchema(Body):
    name: str
    """For the caller's own books: it changes nothing here."""
    description: str | None = None
    """For the caller's own books as well: the model is told nothing but the messages."""
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None
    """The schema is always held strictly."""


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: NamedSchema


AnyFormat = AnyText | AnyObject | AnyMatch | SchemaFormat
ResponseFormat = Annotated[AnyFormat, Field(discriminator="type")]


def grammar_of(wanted: AnyFormat | None) -> Grammar | None:
    """The language of an answer, None where it may be anything."""
    if wanted is None or isinstance(wanted, AnyText):
        return None
    if isinstance(wanted, AnyMatch):
        return Grammar("regex", wanted.value)
    schema = wanted.value if isinstance(wanted, AnyObject) else wanted.json_schema.schema_
    if schema is None:
        return Grammar("json_object")
    return Grammar("json_schema", json.dumps(schema, ensure_ascii=False))


class StructuredOutputs(Body):
    """vLLM's words for a grammar; one of them."""

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    """A JSON schema, as an object or written as a string."""
    json_object: Literal[True] | None = None
    """Any JSON object."""
    regex: str | None = None

    def grammar(self) -> Grammar:
        if [self.json_, self.json_object, self.regex].count(None) != 2:
            raise invalid("`structured_outputs` takes one of `json`, `json_object` and `regex`", "structured_outputs")
        if self.regex is not None:
            return Grammar("regex", self.regex)
        if self.json_object:
            return Grammar("json_object")
        schema = self.json_ if isinstance(self.json_, str) else json.dumps(self.json_, ensure_ascii=False)
        return Grammar("json_schema", schema)


class OpenAIBody(Body):
    """What both OpenAI routes share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    """So many answers, each in a place of its own at the model: all get one, or the request is refused."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 takes the likeliest token; left out, what the model's generation_config.json says, else 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    """vLLM's: keep so many likeliest tokens; 0 keeps all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """vLLM's: keep tokens at least so many times as likely as the likeliest."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed, prompt and settings give the same answer; answer number i of ``n`` takes seed + i."""
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    """vLLM's and text-generation-inference's: 1 changes nothing."""
    logit_bias: dict[TokenKey, Bias] | None = None
    """Token id (as a string) to what is added to its logit."""
    user: str | None = None
    """Names the caller to a provider's abuse desk; there is none here, and no answer depends on it."""

    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Conversation(Body):
    """What a chat template makes a prompt of."""

    messages: Annotated[list[Message], Field(min_length=1)]
    tools: list[Tool] | None = None
    """Given to the model's chat template; refused where it does not read them."""
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    """With none the model is not told of the tools; with required, or a tool's name, the answer is held to a call."""

    def known_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else [tool.plain() for tool in self.tools or ()]


class ChatBody(Conversation, OpenAIBody):
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """What ``max_tokens`` was called before; set one of them. Left out, all tokens that fit."""
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    """So many likeliest tokens at each place; needs ``logprobs``."""
    parallel_tool_calls: bool | None = None
    """False is refused unless ``tool_choice`` demands a call, and allows one call then."""
    tool_prompt: None = None
    store: Neutral = None
    modalities: list[Literal["text"]] | None = None


class CompletionBody(OpenAIBody):
    prompt: (
        Text | TokenIds | Annotated[list[Text], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]
    )
    """A text, or token ids as they are; a list of either is so many prompts, answered in one body."""
    echo: bool | None = None
    """The prompt stands before the answer, and with ``logprobs`` its tokens are scored too."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    """The log-probability of each token that was chosen, and of so many likeliest ones at its place."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    """vLLM's: the log-probability of each of the prompt's tokens, and of so many likeliest ones; not in a stream."""
    return_tokens_as_token_ids: bool | None = None
    """vLLM's: ``logprobs`` names tokens by their ids, since two tokens may have one text."""
    structured_outputs: StructuredOutputs | None = None
    """vLLM's: what the answer's text must be."""
    suffix: None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    """So many answers are made, and the ``n`` with the highest log-probability a token are told."""
    return_token_ids: bool | None = None
    """vLLM's: the ids of the prompt and of the answer beside the text."""
    ignore_eos: bool | None = None
    stop_token_ids: list[TokenId] | None = None
    """vLLM's, like ignore_eos; together they must name the end tokens that the model has anyway."""

    def prompts(self) -> list[str | list[int]]:
        """Each prompt by itself."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        flat = [entry for entry in self.prompt if isinstance(entry, int)]
        return [flat] if flat else [entry for entry in self.prompt if not isinstance(entry, int)]
