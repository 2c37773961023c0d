"""Rows become conversations. Four forms, told apart by their keys, mixed as they come:

{"instruction", "input"?, "output", "system"?, "history"?: [[question, answer], ...]}      Alpaca
{"messages": [{"role", "content"}, ...], "tools"?}                                         messages
{"conversations": [{"from", "value"}, ...], "system"?, "tools"?}                           ShareGPT
{"prompt", "completion", "tools"?}: two texts, or two lists of messages                    prompt and completion
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from easyllm.core.digest import of_value
from easyllm.core.errors import UserError, refuse
from easyllm.core.messages import say
from easyllm.core.row_forms import FORMS, RowFault, form_of, question_of
from easyllm.core.rows import read_rows

Message = dict[str, Any]
"""{"role": "system" | "user" | "assistant" | "tool", "content": text}; an assistant's may carry "tool_calls"."""

ROLES = ("system", "user", "assistant")
KEPT_KEYS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
"""Of a message: what chat templates read."""


class Share(NamedTuple):
    """Which entry of a recipe's data a row is from, and how often an epoch sees it."""

    entry: str = "data"
    weight: float = 1.0


@dataclass(frozen=True)
class Conversation:
    """One row of a data file, and where it stands."""

    messages: tuple[Message, ...]
    file: Path
    line: int
    tools: tuple[dict[str, Any], ...] = ()
    """What the model may call, as JSON schemas; the template writes them."""
    given: int = 0
    """So many messages at the beginning are a prompt, which is not learnt even where the assistant speaks in it."""
    share: Share = Share()

    @property
    def digest(self) -> str:
        """Of what is said, so that two rows with the same words are the same row."""
        return of_value([list(self.messages), list(self.tools)] if self.tools else list(self.messages))

    def as_row(self) -> dict[str, Any]:
        """A row that reads as this conversation."""
        said, tools = list(self.messages), {"tools": list(self.tools)} if self.tools else {}
        if self.given:
            return {"prompt": said[: self.given], "completion": said[self.given :], **tools}
        return {"messages": said, **tools}


def read_conversations(files: Iterable[Path], stage: str, share: Share | None = None) -> Iterator[Conversation]:
    """Every row of ``files``. Raises UserError: ROWS-00x not readable, DATA-001 to DATA-003 not a conversation."""
    share = share or Share()
    for file in files:
        for line, row in read_rows(file, stage):
            yield conversation_of(row, stage, file, line, share)


def conversation_of(row: dict[str, Any], stage: str, file: Path, line: int, share: Share) -> Conversation:
    """The row with all that can be trained on: its tools, its calls, and which of it is a prompt."""
    said = {key: value for key, value in row.items() if value is not None}
    form = _form(said, stage, file, line)
    try:
        messages, given = FORMS[form](said)
        tools = tuple(_tools(said.get("tools")))
        kept = [_checked(message, number) for number, message in enumerate(messages, start=1)]
        _answered(kept)
        if kept[0]["role"] == "assistant":
            raise RowFault(say("row_first_role"))
    except RowFault as fault:
        raise _malformed(form, str(fault), stage, file, line) from fault
    if any(_empty(message) for message in kept[given:]):
        raise refuse("DATA-003", stage=stage, file=file, line=line)
    return Conversation(tuple(kept), file, line, tools, given, share)


def messages_of(row: dict[str, Any], stage: str, file: Path, line: int) -> list[Message]:
    """The messages of one row, in words alone; the last is an assistant's, and no answer is empty."""
    form = _form(row, stage, file, line)
    try:
        messages, _ = FORMS[form](row)
        for number, message in enumerate(messages, start=1):
            _in_words(message, number)
        _answered(messages)
    except RowFault as fault:
        raise _malformed(form, str(fault), stage, file, line) from fault
    if any(_empty(message) for message in messages):
        raise refuse("DATA-003", stage=stage, file=file, line=line)
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def messages_of_task(instruction: str, extra: str, output: str) -> list[Message]:
    """A task with its answer."""
    return [{"role": "user", "content": question_of(instruction, extra)}, {"role": "assistant", "content": output}]


def _form(row: dict[str, Any], stage: str, file: Path, line: int) -> str:
    form = form_of(row)
    if form is None:
        raise refuse("DATA-001", stage=stage, file=file, line=line, keys=", ".join(row) or "-")
    return form


def _malformed(form: str, fault: str, stage: str, file: Path, line: int) -> UserError:
    detail = say("row_of_form", form=form, fault=fault)
    return refuse("DATA-002", stage=stage, file=file, line=line, detail=detail)


def _answered(messages: list[Message]) -> None:
    if messages[-1]["role"] != "assistant":
        raise RowFault(say("row_last_role", role=messages[-1]["role"]))


def _empty(message: Message) -> bool:
    spoken = str(message.get("content", "")).strip()
    return message["role"] == "assistant" and not spoken and not message.get("tool_calls")


def _in_words(message: Any, number: int) -> None:
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        raise RowFault(say("row_message_shape", number=number))
    if message.get("role") not in ROLES:
        raise RowFault(say("row_message_role", number=number, role=message.get("role")))


def _checked(message: Any, number: int) -> Message:
    """The message with what a template reads; an assistant that calls a tool may say nothing."""
    if not isinstance(message, dict):
        raise RowFault(say("row_message_shape", number=number))
    kept = {key: message[key] for key in KEPT_KEYS if message.get(key) is not None}
    calls = kept.get("tool_calls")
    if calls:
        if kept.get("role") != "assistant" or not isinstance(calls, list) or not all(map(_is_call, calls)):
            raise RowFault(say("row_tool_calls", number=number))
        kept.setdefault("content", "")
    elif calls is not None:
        del kept["tool_calls"]  # an empty list, as some exports write for every answer
    if kept.get("role") != "tool":
        _in_words(kept, number)
    elif not isinstance(kept.get("content"), str):
        raise RowFault(say("row_message_shape", number=number))
    return kept


def _is_call(call: Any) -> bool:
    function = call.get("function", call) if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _tools(tools: Any) -> list[dict[str, Any]]:
    """The row's tools: a list of JSON schemas, or a text that holds one."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise RowFault(say("row_tools")) from error
    if not tools or (isinstance(tools, str) and not tools.strip()):
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowFault(say("row_tools"))
    return tools
