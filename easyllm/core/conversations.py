"""Instruction rows become conversations: {"instruction","input","output"} and {"messages"}, mixed as they come."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.digest import of_value
from easyllm.core.errors import UserError, refuse
from easyllm.core.messages import say
from easyllm.core.rows import read_rows

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}."""

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Conversation:
    """One row of a data file, and where it stands."""

    messages: tuple[Message, ...]
    file: Path
    line: int

    @property
    def digest(self) -> str:
        """Of what is said, so that two rows with the same words are the same row."""
        return of_value(list(self.messages))


def read_conversations(files: Iterable[Path], stage: str) -> Iterator[Conversation]:
    """Every row of ``files``. Raises UserError: ROWS-00x not readable, DATA-001 to DATA-003 not a conversation."""
    for file in files:
        for line, row in read_rows(file, stage):
            yield Conversation(tuple(messages_of(row, stage, file, line)), file, line)


def messages_of(row: dict[str, Any], stage: str, file: Path, line: int) -> list[Message]:
    """The messages of one row; the last is an assistant's, and no answer is empty."""
    if "messages" in row:
        messages = _given(row["messages"], stage, file, line)
    elif "instruction" in row and "output" in row:
        messages = _instruction(row, stage, file, line)
    else:
        raise refuse("DATA-001", stage=stage, file=file, line=line, keys=", ".join(row) or "-")
    if any(m["role"] == "assistant" and not m["content"].strip() for m in messages):
        raise refuse("DATA-003", stage=stage, file=file, line=line)
    return messages


def _instruction(row: dict[str, Any], stage: str, file: Path, line: int) -> list[Message]:
    texts = [row["instruction"], row.get("input") or "", row["output"]]
    if not all(isinstance(text, str) for text in texts):
        raise _malformed(say("row_not_texts"), stage, file, line)
    instruction, extra, output = texts
    if not instruction.strip():
        raise _malformed(say("row_no_instruction"), stage, file, line)
    return messages_of_task(instruction, extra, output)


def messages_of_task(instruction: str, extra: str, output: str) -> list[Message]:
    """How a model is asked a task: the instruction, and its input below."""
    question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    return [{"role": "user", "content": question}, {"role": "assistant", "content": output}]


def _given(messages: Any, stage: str, file: Path, line: int) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise _malformed(say("row_no_list"), stage, file, line)
    for number, message in enumerate(messages, start=1):
        fault = _fault(message, number)
        if fault:
            raise _malformed(fault, stage, file, line)
    if messages[-1]["role"] != "assistant":
        raise _malformed(say("row_last_role", role=messages[-1]["role"]), stage, file, line)
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _fault(message: Any, number: int) -> str | None:
    if not isinstance(message, dict) or not isinstance(message.get("content"), str):
        return say("row_message_shape", number=number)
    if message.get("role") not in ROLES:
        return say("row_message_role", number=number, role=message.get("role"))
    return None


def _malformed(detail: str, stage: str, file: Path, line: int) -> UserError:
    return refuse("DATA-002", stage=stage, file=file, line=line, detail=detail)
