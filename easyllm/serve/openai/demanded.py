"""Calls that a request demands: the answer is held to their arguments' schema, and told as the calls that it is.

With ``tool_choice`` naming a function the whole answer is that function's arguments; with ``required`` it is a list of
{name, parameters}. Both are what vLLM does, and need nothing of how the model writes calls of its own accord.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyllm.serve.contract import Grammar, Piece
from easyllm.serve.openai.bodies import ChatBody, NamedTool, Tool
from easyllm.serve.openai.shapes import Said
from easyllm.serve.openai.tool_calls import CallReader, call_of, reads_calls
from easyllm.serve.refusals import invalid

Schema = dict[str, Any]


@dataclass(frozen=True)
class Demand:
    """What the answer must be."""

    grammar: Grammar
    name: str | None
    """The one function that it must call; None where the model chooses."""


def demand_of(body: ChatBody) -> Demand | None:
    """The calls that ``body`` demands. Refused: what it says of calls and does not come true."""
    choice, tools = body.tool_choice, body.tools or []
    if choice not in (None, "none") and not tools:
        raise invalid("`tool_choice` needs `tools`", "tool_choice")
    if choice in (None, "none", "auto"):
        _refuse_promises(body, tools)
        return None
    if body.response_format is not None:
        told = "`response_format`: the answer is already held to the call that `tool_choice` demands"
        raise invalid(told, "response_format")
    if not isinstance(choice, NamedTool):
        return Demand(_grammar(_any_of(tools, 1 if body.parallel_tool_calls is False else None)), None)
    wanted = choice.function.name
    found = next((tool for tool in tools if tool.function.name == wanted), None)
    if found is None:
        raise invalid(f"`tool_choice`: there is no function `{wanted}` among `tools`", "tool_choice")
    return Demand(_grammar(_arguments(found)), wanted)


def _refuse_promises(body: ChatBody, tools: Sequence[Tool]) -> None:
    """Calls that the model makes of its own accord are read as it writes them: nothing can be promised of them."""
    if body.parallel_tool_calls is False:
        told = "`parallel_tool_calls` cannot be False unless `tool_choice` demands a call"
        raise invalid(told, "parallel_tool_calls")
    for place, tool in enumerate(tools):
        if tool.function.strict:
            told = "`strict` of a tool cannot be True unless `tool_choice` demands a call, which is always strict"
            raise invalid(told, f"tools.{place}.function.strict")


def _grammar(schema: Schema) -> Grammar:
    return Grammar("json_schema", json.dumps(schema, ensure_ascii=False))


def _arguments(tool: Tool) -> Schema:
    return {"type": "object", **(tool.function.parameters or {})}


def _any_of(tools: Sequence[Tool], most: int | None) -> Schema:
    """A list of calls, each with the arguments of its function."""
    # Whole, so that whatever a schema refers to in itself is found: only the way to its root is longer.
    shared = {str(place): _moved(_arguments(tool), f"#/$defs/{place}") for place, tool in enumerate(tools)}
    calls = [_call(tool.function.name, f"#/$defs/{place}") for place, tool in enumerate(tools)]
    limit = {} if most is None else {"maxItems": most}
    return {"type": "array", "minItems": 1, **limit, "items": {"anyOf": calls}, "$defs": shared}


def _call(name: str, arguments: str) -> Schema:
    properties = {"name": {"const": name}, "parameters": {"$ref": arguments}}
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _moved(schema: Any, root: str) -> Any:
    """``schema`` for its place in a larger one: what each ``$ref`` named from the old root it names from ``root``."""
    if isinstance(schema, list):
        return [_moved(part, root) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _moved(part, root) for key, part in schema.items()}
    target = found.get("$ref")
    if isinstance(target, str) and (target == "#" or target.startswith("#/")):
        found["$ref"] = root + target[1:]
    return found


class DemandedReader:
    """Takes an answer that is nothing but calls. One that was cut off is told as far as it came."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._raw = ""
        self.ends_as_call = name is None
        """OpenAI's: where the request names the function, an answer ends with ``stop``."""

    def take(self, piece: Piece) -> str:
        """No content."""
        self._raw += piece.text
        return ""

    def finish(self) -> Said:
        """The calls; where a list was cut off, its text."""
        if self._name is not None:
            return {"tool_calls": [call_of({"function": {"name": self._name, "arguments": self._raw}})]}
        try:
            calls = json.loads(self._raw)
        except (ValueError, RecursionError):
            return {"content": self._raw}
        plain = [{"name": call["name"], "arguments": call["parameters"]} for call in calls]
        return {"tool_calls": [call_of({"function": call}) for call in plain]}


Reader = CallReader | DemandedReader


def reader_of(tokenizer: Any, prompt: str, tools: list[dict[str, Any]], demand: Demand | None) -> Reader | None:
    """What takes the calls out of one answer to ``prompt``; None where an answer is text and nothing else."""
    if demand:
        return DemandedReader(demand.name)
    return CallReader(tokenizer, prompt, tools) if tools and reads_calls(tokenizer) else None
