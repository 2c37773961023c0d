"""What the routes of text-generation-inference take, in its limits and its words (router/src/validation.rs)."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from easyllm.serve.bodies import MOST_STOPS, Body, Neutral, Stop
from easyllm.serve.contract import Grammar
from easyllm.serve.openai.bodies import Conversation
from easyllm.serve.refusals import invalid

MOST_BEST_OF = 2
MOST_TOP_TOKENS = 5
TEXTS = {
    "best_of": f"`best_of` must be > 0 and <= {MOST_BEST_OF}. Given: {{given}}",
    "top_n_tokens": f"`top_n_tokens` must be >= 0 and <= {MOST_TOP_TOKENS}. Given: {{given}}",
    "temperature": "`temperature` must be strictly positive",
    "repetition_penalty": "`repetition_penalty` must be strictly positive",
    "frequency_penalty": "`frequency_penalty` must be >= -2.0 and <= 2.0",
    "top_p": "`top_p` must be > 0.0 and < 1.0",
    "top_k": "`top_k` must be strictly positive",
    "typical_p": "`typical_p` must be > 0.0 and < 1.0",
    "max_new_tokens": "`max_new_tokens` must be strictly positive",
    "inputs": "`inputs` cannot be empty",
    "stop": f"`stop` supports up to {MOST_STOPS} stop sequences. Given: {{given}}",
}
"""What text-generation-inference says of a value out of range."""


class JsonGrammar(Body):
    type: Literal["json"]
    value: dict[str, Any] | str
    """A JSON schema, as an object or written as a string."""


class RegexGrammar(Body):
    type: Literal["regex"]
    value: str


class TitledSchema(Body):
    name: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class SchemaGrammar(Body):
    type: Literal["json_schema"]
    value: TitledSchema


AnyGrammar = Annotated[JsonGrammar | RegexGrammar | SchemaGrammar, Field(discriminator="type")]


def grammar_of(wanted: JsonGrammar | RegexGrammar | SchemaGrammar | None) -> Grammar | None:
    """The language of an answer, None where it may be anything."""
    if wanted is None:
        return None
    if isinstance(wanted, RegexGrammar):
        return Grammar("regex", wanted.value)
    schema: Any = wanted.value.schema_ if isinstance(wanted, SchemaGrammar) else wanted.value
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(schema, ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise invalid(f"grammar is not valid: {error}", "grammar") from error
    if not isinstance(schema, dict):
        raise invalid("grammar is not valid: a JSON schema is an object", "grammar")
    return Grammar("json_schema", text)


class TgiParameters(Body):
    do_sample: bool | None = None
    max_new_tokens: Annotated[int, Field(gt=0)] | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    top_p: Annotated[float, Field(gt=0, lt=1)] | None = None
    top_k: Annotated[int, Field(gt=0)] | None = None
    typical_p: Annotated[float, Field(gt=0, lt=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Left out, a sampled answer gets a random one; the details tell it, and it gives the same answer again."""
    stop: Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    truncate: Annotated[int, Field(ge=0)] | None = None
    """Keep this many last tokens of the prompt."""
    details: bool | None = None
    decoder_input_details: bool | None = None
    """The prompt's tokens with their log-probabilities, in the details; not in a stream."""
    top_n_tokens: Annotated[int, Field(ge=0, le=MOST_TOP_TOKENS)] | None = None
    """So many likeliest tokens at each place, in the details."""
    best_of: Annotated[int, Field(gt=0, le=MOST_BEST_OF)] | None = None
    """So many sampled answers; the one with the highest log-probability a token is told, the others in the details."""
    return_full_text: bool | None = None
    grammar: AnyGrammar | None = None
    adapter_id: Annotated[str, Field(min_length=1)] | None = None
    """Name of a LoRA adapter that the server has."""
    watermark: Neutral = None


class TgiBody(Body):
    texts: ClassVar[dict[str, str]] = TEXTS
    inputs: Annotated[str, Field(min_length=1)]
    parameters: TgiParameters | None = None
    stream: bool | None = None
    """Read by ``POST /`` and ``/invocations`` only; the other two routes say it in their name."""


class Truncation(Body):
    truncate: Annotated[int, Field(ge=0)] | None = None


class TokenizeBody(Body):
    texts: ClassVar[dict[str, str]] = TEXTS
    inputs: Annotated[str, Field(min_length=1)]
    parameters: Truncation | None = None


class ChatTokenizeBody(Conversation):
    model: str | None = None
