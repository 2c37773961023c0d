"""Rows as Alpaca, ShareGPT, messages and prompt/completion, with several turns and with tools."""

import json
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.conversations import Conversation, read_conversations
from easyllm.core.errors import UserError
from tiny_tune import write_rows

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello, who is it?"},
    {"role": "user", "content": "Add.\n\n2 + 3"},
    {"role": "assistant", "content": "5"},
]
SAME: list[dict[str, Any]] = [
    {"messages": TALK},
    {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "Hello"},
            {"from": "gpt", "value": "Hello, who is it?"},
            {"from": "user", "value": "Add.\n\n2 + 3"},
            {"from": "assistant", "value": "5"},
        ]
    },
    {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "Hello"},
            {"from": "gpt", "value": "Hello, who is it?"},
            {"from": "human", "value": "Add.\n\n2 + 3"},
            {"from": "gpt", "value": "5"},
        ],
    },
    {
        "instruction": "Add.",
        "input": "2 + 3",
        "output": "5",
        "system": "Be brief.",
        "history": [["Hello", "Hello, who is it?"]],
    },
    {"prompt": TALK[:4], "completion": TALK[4:]},
    {"messages": TALK, "prompt": None, "conversations": None},
]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def read(tmp_path: Path, *rows: dict[str, Any]) -> list[Conversation]:
    return list(read_conversations([write_rows(tmp_path / "rows.jsonl", list(rows))], "finetune"))


def test_the_same_talk_in_every_form_is_the_same_conversation(tmp_path: Path) -> None:
    found = read(tmp_path, *SAME)
    assert [list(row.messages) for row in found] == [TALK] * len(SAME)
    assert len({row.digest for row in found}) == 1
    assert [row.given for row in found] == [0, 0, 0, 0, 4, 0]


def test_what_an_alpaca_row_leaves_empty_is_not_there(tmp_path: Path) -> None:
    empty = {"instruction": "q", "output": "a", "input": "", "system": "", "history": []}
    none = {"instruction": "q", "output": "a", "input": None, "system": None, "history": None}
    found = read(tmp_path, empty, none, {"instruction": "q", "output": "a"})
    assert len({row.digest for row in found}) == 1


def test_a_prompt_and_a_completion_as_texts_are_a_question_and_its_answer(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"prompt": "Add 2 and 3.", "completion": "5"})
    assert [(m["role"], m["content"]) for m in row.messages] == [("user", "Add 2 and 3."), ("assistant", "5")]
    assert row.given == 1


def test_tools_and_their_calls_are_read_from_messages_and_from_sharegpt(tmp_path: Path) -> None:
    chat = {
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": "2 + 3?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "5"},
            {"role": "assistant", "content": "It is 5.", "tool_calls": []},
        ],
    }
    sharegpt = {
        "tools": json.dumps([TOOL]),
        "conversations": [
            {"from": "human", "value": "2 + 3?"},
            {"from": "function_call", "value": json.dumps(CALL["function"])},
            {"from": "observation", "value": "5"},
            {"from": "gpt", "value": "It is 5."},
        ],
    }
    one, other = read(tmp_path, chat, sharegpt)
    assert one.tools == other.tools == (TOOL,)
    assert one.messages == other.messages
    assert one.messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_a_written_row_reads_as_the_same_conversation(tmp_path: Path) -> None:
    rows = read(tmp_path, *SAME, {"tools": [TOOL], "messages": TALK})
    again = read(tmp_path, *[row.as_row() for row in rows])
    assert [(r.messages, r.tools, r.given) for r in again] == [(r.messages, r.tools, r.given) for r in rows]


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ({"question": "q", "answer": "a"}, "DATA-001", "question, answer"),
        ({"conversations": []}, "DATA-002", "read as ShareGPT, conversations is not"),
        ({"conversations": [{"from": "human"}]}, "DATA-002", "read as ShareGPT, turn 1"),
        ({"conversations": [{"from": "martian", "value": "x"}, {"from": "gpt", "value": "y"}]}, "DATA-002", "martian"),
        ({"conversations": [{"from": "gpt", "value": "hello"}]}, "DATA-002", "nobody asked"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": " "}]}, "DATA-003", "empty"),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "add(2, 3)"}]},
            "DATA-002",
            "calls of message 2",
        ),
        ({"instruction": "q", "output": "a", "history": ["hello"]}, "DATA-002", "read as Alpaca, history"),
        ({"instruction": "q", "output": "a", "input": 0}, "DATA-002", "must be texts"),
        ({"instruction": "q", "output": "a", "history": ""}, "DATA-002", "read as Alpaca, history"),
        ({"instruction": "q", "output": "a", "history": {}}, "DATA-002", "read as Alpaca, history"),
        ({"instruction": "q", "output": "a", "system": False}, "DATA-002", "read as Alpaca, message 1"),
        ({"prompt": "q", "completion": "a", "system": []}, "DATA-002", "message 1"),
        ({"prompt": "q", "completion": [{"role": "assistant", "content": "a"}]}, "DATA-002", "two texts or two lists"),
        ({"prompt": " ", "completion": "a"}, "DATA-002", "the prompt is empty"),
        ({"messages": TALK, "tools": "add, multiply"}, "DATA-002", "tools is not"),
        ({"messages": [TALK[1], {"role": "assistant", "tool_calls": ["add"]}]}, "DATA-002", "calls of message 2"),
        ({"messages": [TALK[1], {"role": "tool", "content": "5"}]}, "DATA-002", "role 'tool'"),
    ],
)
def test_a_fault_names_the_line_and_the_form_that_was_read(
    tmp_path: Path, row: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, SAME[0], row)
    (found,) = refused.value.problems
    assert (found.code, found.line) == (code, 2)
    assert words in found.what
