"""What answers say: JSON whole, fenced, cut, or the plain forms, in both languages; and nothing is guessed."""

import asyncio
import random

import pytest

from easyllm.instruct.ask import Answer
from easyllm.instruct.ordered import in_order
from easyllm.instruct.reading import evolved_of, instances_of, instructions_of, kind_of, rows_of


def answer(text: str, finish: str = "stop") -> Answer:
    return Answer("key", text, finish, 1, 1)


@pytest.mark.parametrize(
    ("text", "finish", "found"),
    [
        ('{"instructions": ["Add.", "Sort."]}', "stop", ["Add.", "Sort."]),
        ('Sure!\n```json\n{"instructions": ["Add."]}\n```', "stop", ["Add."]),
        ('Here you are: {"instructions": ["Add."]} Enjoy!', "stop", ["Add."]),
        ('{"instructions": ["Add.", "Sor', "length", ["Add."]),
        ('{"instructions": ["Add.", "Sort."', "length", ["Add."]),
        ("1. Add two numbers.\n2. Sort\n   a list.\n", "stop", ["Add two numbers.", "Sort a list."]),
        ("1. 把下面的句子译成英文。\n2、写一首诗", "stop", ["把下面的句子译成英文。", "写一首诗"]),
        ("1. Add two numbers.\n2. Sort a li", "length", ["Add two numbers."]),
        ("I'm sorry, but I cannot help with that.", "stop", None),
        ('{"tasks": 3}', "stop", None),
    ],
)
def test_instructions(text: str, finish: str, found: list[str] | None) -> None:
    assert instructions_of(answer(text, finish)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"classification": true}', True), ("No.", False), ("是", True), ("否。", False), ("不是分类任务", False),
        ("Perhaps", None), ('{"classification": "maybe"}', None),
    ],
)  # fmt: skip
def test_kind(text: str, found: bool | None) -> None:
    assert kind_of(answer(text)) == found


@pytest.mark.parametrize(
    ("text", "finish", "found"),
    [
        ('{"instances": [{"input": "", "output": "7"}]}', "stop", [("", "7")]),
        ('{"instances": [{"input": null, "output": 7}]}', "stop", [("", "7")]),
        ('{"instances": [{"input": "a", "output": "b"}, {"input": "c", "outp', "length", [("a", "b")]),
        ("Input: 3 + 4\nOutput: 7\nInput: <noinput>\nOutput: two\nlines", "stop", [("3 + 4", "7"), ("", "two\nlines")]),
        (
            "输出：正面\n输入：这家店很好\n输出：负面\n输入：太慢了",
            "stop",
            [("这家店很好", "正面"), ("太慢了", "负面")],
        ),
        ("Input: 3 + 4\nOutput: 7\nInput: 5\nOutput: and so", "length", [("3 + 4", "7")]),
        ("I cannot do that.", "stop", None),
    ],
)
def test_instances(text: str, finish: str, found: list[tuple[str, str]] | None) -> None:
    said = instances_of(answer(text, finish))
    assert (said and [(entry["input"], entry["output"]) for entry in said]) == found


def test_rows() -> None:
    plain = "1. Instruction: Add.\nInput: 1 and 2\nOutput: 3\n\n2. 指令：翻译。\n输入：无\n输出：好"
    assert rows_of(answer(plain)) == [
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"instruction": "翻译。", "input": "", "output": "好"},
    ]
    assert rows_of(answer("no rows here")) is None
    assert evolved_of(answer('{"instruction": "Harder."}')) == "Harder."
    assert evolved_of(answer("Harder still.")) == "Harder still."
    assert evolved_of(answer("Harder and", "length")) is None


def test_answers_are_heard_in_the_order_of_asking_and_prompts_see_the_same_past() -> None:
    """Whatever is answered first: what request k may know is results 0 to k - lookahead."""

    def run(seed: int) -> tuple[list[int], list[int], int]:
        wait, seen, known, at_once = random.Random(seed), [], [], [0, 0]

        def make(number: int) -> int | None:
            known.append(len(seen))
            return number if number < 40 else None

        async def do(item: int) -> int:
            at_once[0] += 1
            at_once[1] = max(at_once)
            await asyncio.sleep(wait.random() / 200)
            at_once[0] -= 1
            return item * item

        async def main() -> None:
            async for item, result in in_order(make, do, 7):
                assert result == item * item
                seen.append(item)

        asyncio.run(main())
        return seen, known, at_once[1]

    runs = [run(seed) for seed in range(3)]
    assert all(seen == list(range(40)) for seen, _, _ in runs)
    assert runs[0][1] == runs[1][1] == runs[2][1] == [max(0, n - 6) for n in range(41)]
    assert all(most == 7 for _, _, most in runs)
