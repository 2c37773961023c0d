"""Events reach clients that split lines where Python's str.splitlines does."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from easyllm.serve.sse import data_of, event


def test_no_character_of_an_answer_ends_its_line() -> None:
    said = {"text": "".join(map(chr, range(0x3000))) + "灯塔"}
    answer = httpx.Response(200, content=event(said) + event("[DONE]"))
    lines = [line for line in answer.iter_lines() if line]
    assert lines[1:] == ["data: [DONE]"]
    assert json.loads(lines[0].removeprefix("data: ")) == said
    assert "灯塔" in lines[0], "and what ends no line stays as it is"


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_another_servers_events_are_read_whole_whatever_is_in_them(size: int) -> None:
    said = [{"text": "a\u2028b\x85c"}, {"text": "灯塔"}]
    sent = "".join(f"data: {json.dumps(one, ensure_ascii=False)}\r\n\r\n" for one in said).encode()
    sent = b": a comment\n\n" + sent + b"data: [DONE]"

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(sent), size):
            yield sent[start : start + size]

    async def read() -> list[str]:
        return [text async for text in data_of(chunks())]

    *found, end = asyncio.run(read())
    assert [json.loads(text) for text in found] == said
    assert end == "[DONE]"
