"""The forms that instruction rows are written in: how each is known, and the messages it holds."""

import json
from collections.abc import Callable
from typing import Any

from easyllm.core.messages import say

SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
"""Names that ShareGPT has for roles; system, user and assistant go by their own."""

Said = tuple[list[Any], int]
"""The messages of a row, not looked at yet, and how many of them are a prompt that is not learnt."""


class RowFault(Exception):
    """What is wrong with a row, in words."""


def form_of(row: dict[str, Any]) -> str | None:
    """Which of FORMS the row is in, by its keys; None for none of them."""
    if "messages" in row:
        return "messages"
    if "conversations" in row:
        return "ShareGPT"
    if "instruction" in row and "output" in row:
        return "Alpaca"
    return "prompt and completion" if "prompt" in row and "completion" in row else None


def question_of(instruction: str, extra: str) -> str:
    """How a model is asked a task: the instruction, and its input below."""
    return f"{instruction}\n\n{extra}" if extra.strip() else instruction


def _alpaca(row: dict[str, Any]) -> Said:
    instruction, extra, output = row["instruction"], row.get("input"), row["output"]
    extra = "" if extra is None else extra
    if not all(isinstance(text, str) for text in (instruction, extra, output)):
        raise RowFault(say("row_not_texts"))
    if not instruction.strip():
        raise RowFault(say("row_no_instruction"))
    history = [] if row.get("history") is None else row["history"]
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise RowFault(say("row_history"))
    said = _system(row)
    for asked, answer in [*history, [question_of(instruction, extra), output]]:
        said += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return said, 0


def _messages(row: dict[str, Any]) -> Said:
    return _list(row["messages"], "messages"), 0


def _sharegpt(row: dict[str, Any]) -> Said:
    said = _system(row)
    for number, turn in enumerate(_list(row["conversations"], "conversations"), start=1):
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("from", "value")):
            raise RowFault(say("row_turn_shape", number=number))
        said.append(_turn(turn["from"], turn["value"], number))
    return said, 0


def _turn(speaker: str, value: str, number: int) -> dict[str, Any]:
    """LLaMA-Factory writes calls as turns of "function_call" with JSON in them, and results as "observation"."""
    if speaker == "observation":
        return {"role": "tool", "content": value}
    if speaker != "function_call":
        return {"role": SPEAKERS.get(speaker, speaker), "content": value}
    try:
        calls = json.loads(value)
    except ValueError as error:
        raise RowFault(say("row_tool_calls", number=number)) from error
    calls = calls if isinstance(calls, list) else [calls]
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": call} for call in calls]}


def _prompt(row: dict[str, Any]) -> Said:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        if not prompt.strip():
            raise RowFault(say("row_no_prompt"))
        asked = [*_system(row), {"role": "user", "content": prompt}]
        return [*asked, {"role": "assistant", "content": completion}], len(asked)
    if isinstance(prompt, list) and isinstance(completion, list):
        asked = [*_system(row), *_list(prompt, "prompt")]
        return [*asked, *_list(completion, "completion")], len(asked)
    raise RowFault(say("row_prompt_shape"))


def _system(row: dict[str, Any]) -> list[Any]:
    said = row.get("system")
    return [] if said is None or said == "" else [{"role": "system", "content": said}]


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise RowFault(say("row_no_list", key=key))
    return value


FORMS: dict[str, Callable[[dict[str, Any]], Said]] = {
    "Alpaca": _alpaca,
    "messages": _messages,
    "ShareGPT": _sharegpt,
    "prompt and completion": _prompt,
}
