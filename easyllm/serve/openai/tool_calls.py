"""Tool calls are read out of an answer where, and only where, the model says in a defined way how it writes them.

That way is transformers' ``response_template`` in tokenizer_config.json: a declaration of an answer's parts. Without
it an answer stays the text that it is; guessing at brackets would turn text into calls.
"""

import json
import uuid
from typing import Any

from easyllm.serve.contract import Piece
from easyllm.serve.openai.shapes import Said, ToolCall

REASONING = ("reasoning_content", "reasoning", "thinking")
"""What models call the part before the answer; clients know it by the first of these names."""

UNREADABLE = (ValueError, KeyError, TypeError, RecursionError)
"""What the parser raises where a model wrote what its own declaration does not allow."""


def reads_calls(tokenizer: Any) -> bool:
    """Whether this model's answers can be taken apart."""
    template = getattr(tokenizer, "response_template", None) or {}
    return "tool_calls" in template.get("fields", {})


class CallReader:
    """Takes one answer apart while it comes: content at once, everything else when it is whole.

    What does not follow the declaration (a call that was cut off, say) is content, as it stands.
    """

    ends_as_call = True
    """An answer that has calls says so in its finish_reason."""

    def __init__(self, tokenizer: Any, prompt: str, tools: list[dict[str, Any]]) -> None:
        self._tokenizer = tokenizer
        self._parser = tokenizer.get_response_parser(prefix=prompt, tools=tools)
        self._raw = ""
        self._told = ""
        self._only_content = True
        """Until the first other part begins; from there on content waits for the end."""
        self._broken = False

    def take(self, piece: Piece) -> str:
        """The content that ``piece`` completes."""
        if (
            piece.special and piece.finish != "eos_token"
        ):  # a mark that opens a call may be a token that text leaves out
            name = self._tokenizer.convert_ids_to_tokens(piece.token.id)
            return self._feed(f"{piece.text}{name}")
        return self._feed(piece.text)

    def _feed(self, text: str) -> str:
        self._raw += text
        if self._broken:
            return ""
        try:
            events = self._parser.feed(text)
        except UNREADABLE:
            self._broken = True
            return ""
        fresh = ""
        for event in events:
            self._only_content = self._only_content and event["field"] == "content"
            if self._only_content and event["type"] == "region_chunk":
                fresh += event["text"]
        self._told += fresh
        return fresh

    def finish(self) -> Said:
        """What is left to tell: the rest of the content, and the calls."""
        try:
            message = None if self._broken else self._parser.finalize()[0]
            calls = [call_of(call) for call in (message or {}).get("tool_calls") or ()]
        except UNREADABLE:
            message, calls = None, []
        if message is None:
            return {"content": self._raw.removeprefix(self._told)}
        left: Said = {}
        content = message.get("content") or ""
        if content.startswith(self._told) and content != self._told:
            left["content"] = content.removeprefix(self._told)
        thought = "".join(str(message[name]) for name in REASONING if message.get(name))
        if thought:
            left["reasoning_content"] = thought
        if calls:
            left["tool_calls"] = calls
        return left


def call_of(call: Any) -> ToolCall:
    """A call as clients know it, with an id of its own. Raises KeyError and TypeError where it is none."""
    function = call["function"]
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": f"call_{uuid.uuid4().hex}",
        "type": "function",
        "function": {"name": str(function["name"]), "arguments": text},
    }
