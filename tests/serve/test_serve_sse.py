"""Events reach clients that split lines where Python's str.splitlines does."""

import json

import httpx

from easyllm.serve.sse import event


def test_no_character_of_an_answer_ends_its_line() -> None:
    said = {"text": "".join(map(chr, range(0x3000))) + "灯塔"}
    answer = httpx.Response(200, content=event(said) + event("[DONE]"))
    lines = [line for line in answer.iter_lines() if line]
    assert lines[1:] == ["data: [DONE]"]
    assert json.loads(lines[0].removeprefix("data: ")) == said
    assert "灯塔" in lines[0], "and what ends no line stays as it is"
