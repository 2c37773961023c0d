"""Messages and tools become the text and the token ids that the model's own chat template makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyllm.serve.openai.bodies import Message
from easyllm.serve.refusals import Refused, invalid


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it."""

    text: str
    ids: list[int]


def rendered(tokenizer: Any, messages: Sequence[Message], tools: list[dict[str, Any]]) -> Rendered:
    """The conversation up to where the answer begins.

    Refused: what the template refuses, and what it would leave out in silence (tools, calls, names of speakers).
    """
    _require_content(messages)
    plain = [message.plain() for message in messages]
    text = _text(tokenizer, plain, tools)
    if tools and text == _text(tokenizer, plain, []):
        raise invalid("`tools`: the model's chat template does not know tools", "tools")
    for place, message in enumerate(messages):
        for key in ("tool_calls", "name"):
            if key in plain[place] and _text(tokenizer, _without(plain, place, key), tools) == text:
                raise invalid(f"`{key}` of a message: the model's chat template does not read it", f"messages.{place}")
        if message.role == "tool" and _text(tokenizer, _blank(plain, place), tools) == text:
            raise invalid("the model's chat template does not read messages of role `tool`", f"messages.{place}")
    return Rendered(text, list(tokenizer.encode(text, add_special_tokens=False)))


def _require_content(messages: Sequence[Message]) -> None:
    for place, message in enumerate(messages):
        if message.content is None and not (message.role == "assistant" and message.tool_calls):
            raise invalid(f"`messages.{place}.content` is missing", f"messages.{place}.content")
        if message.tool_calls and message.role != "assistant":
            raise invalid(f"`messages.{place}.tool_calls`: only an assistant calls tools", f"messages.{place}")


def _text(tokenizer: Any, plain: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    from easyllm.core.chat import (
        TEMPLATE_ERRORS,
        render_text,
    )  # brings transformers, which has been loaded with the model

    try:
        return render_text(tokenizer, plain, tools, True)
    except TEMPLATE_ERRORS as error:  # a template is a program, and these are its input
        told = f"Template error: the model's chat template refuses these messages: {error}"
        raise Refused(422, told, "messages", kind="template_error") from error


def _without(plain: list[dict[str, Any]], place: int, key: str) -> list[dict[str, Any]]:
    bare = {name: value for name, value in plain[place].items() if name != key}
    return [*plain[:place], bare, *plain[place + 1 :]]


def _blank(plain: list[dict[str, Any]], place: int) -> list[dict[str, Any]]:
    """The same with other words in one message: what a template reads shows in its text."""
    other = plain[place] | {"content": f"{plain[place]['content']}?"}
    return [*plain[:place], other, *plain[place + 1 :]]
