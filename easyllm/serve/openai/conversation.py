"""Messages and tools become the text and the token ids that the model's own chat template makes of them."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyllm.serve.openai.bodies import Conversation, Message, TextPart
from easyllm.serve.refusals import Refused, invalid

FRAME_CHARACTERS = 50
"""Of a message, beside its words; a template takes about as long for it as for so much text."""
PROVEN = {
    "tool_calls": "`tool_calls` of a message: the model's chat template does not read it",
    "name": "`name` of a message: the model's chat template does not read it",
    "content": "the model's chat template does not read messages of role `tool`",
}
"""What a template may leave out in silence, and what its sender is told then; content is that of a tool."""
MOST_PROOFS = 32
"""Messages that are proven one by one, each by writing the whole conversation again."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it."""

    text: str
    ids: list[int]


def size_of(body: Conversation) -> int:
    """Characters that a template has to write, a message's frame among them."""
    said = sum(len(message.content) if isinstance(message.content, str) else 0 for message in body.messages)
    parts = sum(
        len(part.text) for message in body.messages for part in message.content or () if isinstance(part, TextPart)
    )
    return said + parts + FRAME_CHARACTERS * (len(body.messages) + len(body.tools or ()))


def rendered(tokenizer: Any, messages: Sequence[Message], tools: list[dict[str, Any]]) -> Rendered:
    """The conversation up to where the answer begins.

    Refused: what the template refuses, and what it would leave out in silence (tools, calls, names of speakers).
    """
    _require_content(messages)
    plain = [message.plain() for message in messages]
    text = _text(tokenizer, plain, tools)
    if tools and text == _text(tokenizer, plain, []):
        raise invalid("`tools`: the model's chat template does not know tools", "tools")
    _require_read(tokenizer, plain, tools, text)
    return Rendered(text, list(tokenizer.encode(text, add_special_tokens=False)))


def _require_read(tokenizer: Any, plain: list[dict[str, Any]], tools: list[dict[str, Any]], text: str) -> None:
    """Refused: calls, names and messages of tools that the template leaves out of ``text``."""
    doubtful = [(place, key) for place, message in enumerate(plain) for key in PROVEN if _has(message, key)]
    if not doubtful:
        return
    salt = secrets.token_hex(8)
    changed = [dict(message) for message in plain]
    for place, key in doubtful:
        changed[place] |= _marked(changed[place], key, f"{salt}.{place}.{key}.")
    try:
        seen = _text(tokenizer, changed, tools)
    except Refused:  # a template that knows only some names: each by itself then
        seen = ""
    left = [(place, key) for place, key in doubtful if f"{salt}.{place}.{key}." not in seen]
    if len(left) > MOST_PROOFS:
        told = f"more than {MOST_PROOFS} messages with calls, names or the role `tool` that the chat template changes"
        raise invalid(f"{told} are more than this server looks through", "messages")
    for place, key in left:
        if _text(tokenizer, _without(plain, place, key), tools) == text:
            raise invalid(PROVEN[key], f"messages.{place}")


def _require_content(messages: Sequence[Message]) -> None:
    for place, message in enumerate(messages):
        if message.content is None and not (message.role == "assistant" and message.tool_calls):
            raise invalid(f"`messages.{place}.content` is missing", f"messages.{place}.content")
        if message.tool_calls and message.role != "assistant":
            raise invalid(f"`messages.{place}.tool_calls`: only an assistant calls tools", f"messages.{place}")


def _text(tokenizer: Any, plain: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    # It brings transformers, which has been loaded with the model.
    from easyllm.core.chat import TEMPLATE_ERRORS, render_text

    try:
        return render_text(tokenizer, plain, tools, True)
    except TEMPLATE_ERRORS as error:  # a template is a program, and these are its input
        told = f"Template error: the model's chat template refuses these messages: {error}"
        raise Refused(422, told, "messages", kind="template_error") from error


def _has(message: dict[str, Any], key: str) -> bool:
    return message["role"] == "tool" if key == "content" else key in message


def _marked(message: dict[str, Any], key: str, mark: str) -> dict[str, Any]:
    """What shows in the text of a template that reads ``key``."""
    if key == "tool_calls":
        calls = [call | {"function": call["function"] | {"name": mark}} for call in message[key]]
        return {key: calls}
    return {key: f"{message[key]}{mark}"}


def _without(plain: list[dict[str, Any]], place: int, key: str) -> list[dict[str, Any]]:
    """The same with one thing left out, or for a tool's message with other words."""
    other = {name: value for name, value in plain[place].items() if name != key}
    if key == "content":
        other[key] = f"{plain[place][key]}?"
    return [*plain[:place], other, *plain[place + 1 :]]
