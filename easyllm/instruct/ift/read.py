"""What one row says: Alpaca, ShareGPT, messages and Self-Instruct are told apart by their keys, row by row."""

from pathlib import Path
from typing import Any

from easyllm.core.conversations import Message, messages_of
from easyllm.core.errors import UserError, refuse
from easyllm.core.messages import say
from easyllm.core.row_forms import SPEAKERS
from easyllm.instruct.ift.example import SEED_KEYS, Example

TASK_KEYS = frozenset({"instruction", "input", "output"})
NOT_YET = "-"
"""Stands for an answer that is still to be made while the rest of its row is looked at."""


def examples_of(row: dict[str, Any], stage: str, file: Path, line: int, answered: bool = True) -> list[Example]:
    """One example, or one for each instance of a Self-Instruct row.

    Not ``answered``: a task may lack its answer. Raises UserError: IFT-001 in no form that is known, IFT-002 the form
    is broken, DATA-002 and DATA-003 what it says cannot be trained on.
    """
    given = {key: value for key, value in row.items() if value is not None}
    said = {key for key, value in given.items() if value not in ("", [], {})}
    if "messages" in given:
        messages = messages_of(given, stage, file, line)
        return [_talk(messages, given["messages"], said - {"messages"}, file, line)]
    if "conversations" in given:
        return [_conversation(given, said - {"conversations", "system"}, stage, file, line)]
    if "instruction" in given and "instances" in given:
        return _instances(given, said - TASK_KEYS - {"instances"}, stage, file, line, answered)
    if "instruction" in given and ("output" in given or not answered):
        return [_task(given, said - TASK_KEYS, stage, file, line, answered)]
    raise refuse("IFT-001", stage=stage, file=file, line=line, keys=", ".join(row) or "-")


def _task(row: dict[str, Any], extra: set[str], stage: str, file: Path, line: int, answered: bool) -> Example:
    """Of instruction, input and output, and of the turns before them that some write as system and history."""
    known = _known(row, stage, file, line)
    texts = {"instruction": row["instruction"], "input": row.get("input") or "", "output": row.get("output") or ""}
    waits = not answered and not texts["output"]
    messages = messages_of(texts | {"output": NOT_YET} if waits else texts, stage, file, line)
    before = _before(row, stage, file, line)
    if before:
        messages = messages_of({"messages": before + messages}, stage, file, line)
    task = None if before else (texts["instruction"], texts["input"], texts["output"])
    return Example(tuple(messages), task, **known, extra=frozenset(extra - {"system", "history"}), file=file, line=line)


def _before(row: dict[str, Any], stage: str, file: Path, line: int) -> list[Message]:
    """The system's words and the earlier turns of an Alpaca row: {"system", "history": [[question, answer], ...]}."""
    history = row.get("history") or []
    pairs = isinstance(history, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in history)
    if not pairs:
        raise _broken("ift_history", stage, file, line)
    found = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for question, answer in history:
        found += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return found


def _conversation(row: dict[str, Any], extra: set[str], stage: str, file: Path, line: int) -> Example:
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise _broken("ift_no_turns", stage, file, line)
    for number, turn in enumerate(turns, start=1):
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("from"), str)
            or not isinstance(turn.get("value"), str)
        ):
            raise _broken("ift_turn_shape", stage, file, line, number=number)
    said = [{"role": SPEAKERS.get(turn["from"], turn["from"]), "content": turn["value"]} for turn in turns]
    if row.get("system"):
        said.insert(0, {"role": "system", "content": row["system"]})
    messages = messages_of({"messages": said}, stage, file, line)
    return _talk(messages, turns, extra, file, line)


def _talk(messages: list[Message], turns: list[dict[str, Any]], extra: set[str], file: Path, line: int) -> Example:
    """Keys of single turns (weight, tool_calls) count as the row's own: no form here keeps them."""
    inner = {key for turn in turns for key, value in turn.items() if value is not None}
    return Example(
        tuple(messages), extra=frozenset(extra) | inner - {"role", "content", "from", "value"}, file=file, line=line
    )


def _instances(
    row: dict[str, Any], extra: set[str], stage: str, file: Path, line: int, answered: bool
) -> list[Example]:
    instances = row["instances"]
    if not isinstance(instances, list) or not instances or not all(isinstance(entry, dict) for entry in instances):
        raise _broken("ift_no_instances", stage, file, line)
    found = []
    for number, entry in enumerate(instances, start=1):
        if answered and not isinstance(entry.get("output"), str):
            raise _broken("ift_instance_shape", stage, file, line, number=number)
        given = {key: row[key] for key in SEED_KEYS & row.keys()} | {"instruction": row["instruction"]}
        given |= {"input": entry.get("input"), "output": entry.get("output")}
        found.append(_task(given, extra | (entry.keys() - TASK_KEYS), stage, file, line, answered))
    return found


def _known(row: dict[str, Any], stage: str, file: Path, line: int) -> dict[str, Any]:
    """What a Self-Instruct row says beside its words, where it says it as it should."""
    kind = row.get("is_classification")
    if kind is not None and not isinstance(kind, bool):
        raise _broken("ift_kind", stage, file, line)
    texts = {name: row[name] for name in ("id", "name") if isinstance(row.get(name), str | int)}
    return {name: str(value) for name, value in texts.items()} | {"is_classification": kind}


def _broken(text: str, stage: str, file: Path, line: int, **params: Any) -> UserError:
    return refuse("IFT-002", stage=stage, file=file, line=line, detail=say(text, **params))
