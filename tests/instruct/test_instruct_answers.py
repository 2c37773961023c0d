"""What is found about answers, languages, personal data and evaluation sets; and where nothing must be found."""

import json
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.errors import UserError
from easyllm.instruct.clean.cleaner import Cleaner
from easyllm.instruct.clean.language import other_language
from easyllm.instruct.config import Clean
from easyllm.instruct.row import Row

BOTH = [("Name a river.", "en"), ("说出一条河流。", "zh")]


def cleaner(evaluation: tuple[Path, ...] = (), **asked: Any) -> Cleaner:
    return Cleaner(Clean(**asked), BOTH, evaluation)


def reasons(
    instruction: str, output: str, given: str = "", language: str = "en", cut: bool = False, **asked: Any
) -> list[str]:
    """What is found about an answer; what only the reviewer is shown has a question mark."""
    row = Row(instruction, given, output, language=language)
    return [found.reason + "?" * (not found.drops) for found in cleaner(**asked).answer(row, cut)]


@pytest.mark.parametrize(
    ("instruction", "output", "language", "expected"),
    [
        ("Write a story", "", "en", ["empty_output"]),
        ("Write a story", "Write a story", "en", ["output_is_instruction"]),
        ("Write a story", "Here it is:", "en", ["ends_with_colon"]),
        ("写一个故事", "如下：", "zh", ["ends_with_colon"]),
        ("Write a story", "Output: Once upon a time", "en", ["template_leftover"]),
        ("写一个故事", "输出：从前有座山", "zh", ["template_leftover"]),
        ("Greet me", "Hello<|im_end|>", "en", ["template_leftover"]),
        ("Name a fruit", "<noinput>", "en", ["template_leftover"]),
        ("Write to Anna", "Dear [insert name here], hi", "en", ["template_leftover"]),
        ("写一封信", "【此处填写公司名称】您好", "zh", ["template_leftover"]),
        ("Write to Anna", "Dear [Your Name]", "en", ["blank_to_fill?"]),
        ("Do you like pizza", "As an AI language model, I do not eat.", "en", ["teacher_reference"]),
        ("你喜欢吃什么", "作为一个人工智能，我不吃东西。", "zh", ["teacher_reference"]),
        ("你是谁写的", "我是一个由OpenAI开发的语言模型。", "zh", ["teacher_reference"]),
        ("Write a speech for an AI assistant", "As an AI assistant, I help.", "en", ["teacher_reference?"]),
        ("Tell me more", "I'm sorry, but I can't assist with that.", "en", ["refusal"]),
        ("Tell me more", "I cannot provide that information.", "en", ["refusal"]),
        ("介绍一下北京", "很抱歉，我无法回答这个问题。", "zh", ["refusal"]),
        ("Decline the invitation", "I'm sorry, but I cannot provide a date.", "en", ["refusal?"]),
        ("Write code", "```python\nx = 1", "en", ["open_code_block?"]),
        ("写一首诗", "The spring is here and the flowers bloom.", "zh", ["output_language"]),
        ("Name the seasons", "春天、夏天、秋天、冬天", "en", ["output_language"]),
    ],
)  # fmt: skip
def test_a_bad_answer_is_named(instruction: str, output: str, language: str, expected: list[str]) -> None:
    assert reasons(instruction, output, language=language) == expected


@pytest.mark.parametrize(
    ("instruction", "given", "output", "language"),
    [
        ("What is six times seven?", "", "Answer: 42", "en"),
        ("What does it print?", "", "The output: of it is 5", "en"),
        ("Write an email template", "", "Dear [Your Name]", "en"), ("List three numbers", "", "List [1, 2, 3]", "en"),
        ("Classify the review", "positive", "positive review", "en"), ("产量如何", "", "输出量增加了", "zh"),
        ("Add the comma.", "Well I never", "Well, I never", "en"), ("Which operator is it?", "", "+", "en"),
        ("Write an apology to a friend.", "", "I'm sorry, but I can't make it to your party.", "en"),
        ("Finish the sentence", "", "I can't wait for summer.", "en"),
        ("写一封道歉信", "", "很抱歉，让你久等了。", "zh"),
        ("Who is she?", "", "As an AI researcher, she publishes a lot.", "en"),
        ("他小时候如何", "", "作为一个孩子，我喜欢画画。", "zh"),
        ("翻译成英文", "春天来了", "Spring is here and it is warm.", "zh"), ("中国首都的英文", "", "Beijing", "zh"),
        ("介绍一下 The Old Man and the Sea", "", "The Old Man and the Sea is a novel", "zh"),
        ("写一个循环", "", "for i in range(10): print(i)", "zh"),
        ("Write a poem in German", "", "Der Frühling ist da und die Blumen blühen", "en"),
        ("Do it", "", "```\nx\n```", "en"),
    ],
)  # fmt: skip
def test_a_good_answer_is_left_alone(instruction: str, given: str, output: str, language: str) -> None:
    assert reasons(instruction, output, given, language) == []


def test_lengths_and_truncation_of_answers() -> None:
    assert reasons("Write a story", "Once upon a", cut=True) == ["truncated"]
    assert reasons("Write a story", "one two three four", output_units=(1, 3)) == ["output_too_long"]
    assert reasons("写一个故事", "从前有座山", language="zh", output_units=(6, 9)) == ["output_too_short"]
    assert reasons("Copy it", "same words", "same words") == ["output_is_input"]


def test_one_input_has_one_answer() -> None:
    judge = cleaner()
    asked = ("What type is it?", "3.0")
    assert judge.answer(Row(*asked, "float"), False) == []
    assert judge.answer(Row("What type is it?", "3", "int"), False) == []
    assert [(f.reason, f.detail) for f in judge.answer(Row(*asked, "int"), False)] == [
        ("second_answer", {"other": "float"})
    ]
    assert [f.reason for f in judge.answer(Row(*asked, "float"), False)] == ["repeated_row"]


@pytest.mark.parametrize(
    ("text", "wanted", "found"),
    [
        ("Write a short poem about the spring", {"zh"}, "en"), ("写一首关于春天的诗", {"en"}, "zh"),
        ("Erkläre den Unterschied zwischen Katze und Hund.", {"en", "zh"}, "de"),
        ("日本の首都はどこですか。教えてください", {"en", "zh"}, "ja"),
        ("대한민국의 수도는 어디입니까 알려주세요", {"en", "zh"}, "ko"),
        ("Translate into English: 你好，世界，今天天气很好", {"en"}, None), ("Python", {"zh"}, None),
        ("把下面的句子翻译成中文：The quick brown fox jumps over the lazy dog", {"zh"}, None),
        ("3 + 5 = 8", {"zh"}, None), ("SELECT name FROM users WHERE age > 3;", {"en"}, None),
        ("用Python写一个函数", {"zh"}, None),
        ("How do you say 'good morning' in German: guten Morgen or guten Tag?", {"en"}, None),
        ("日本の首都はどこですか。教えてください", {"ja"}, None), ("Напиши стихотворение о весне", {"ru"}, None),
    ],
)  # fmt: skip
def test_a_language_is_wrong_only_where_that_is_sure(text: str, wanted: set[str], found: str | None) -> None:
    told = other_language(text, wanted)
    assert (told and told["language"]) == found


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write to anna.berg@posteo.de", "e-mail"), ("身份证号 11010519491231002X", "identity number"),
        ("卡号 4111 1111 1111 1111", "card number"), ("amex 378282246310005", "card number"),
        ("call 138-0013-8000", "telephone number"), ("电话：13800138000", "telephone number"),
        ("010-62345678", "telephone number"), ("(212) 736-5000", "telephone number"),
        ("+49 30 901820", "telephone number"), ("8.8.8.8", "IP address"),
        ("GB82 WEST 1234 5698 7654 32", "account number"), ("078-05-1120", "social security number"),
    ],
)  # fmt: skip
def test_personal_data_is_shown_or_dropped_as_asked(text: str, kind: str) -> None:
    row = Row("Write it down", "", text)
    (found,) = cleaner().answer(row, cut=False)
    assert (found.reason, found.drops, found.detail["kinds"]) == ("personal_data", False, [kind])
    assert cleaner(personal_data="drop").answer(row, cut=False)[0].drops
    assert cleaner(personal_data="keep").answer(row, cut=False) == []


@pytest.mark.parametrize(
    "text",
    [
        "me@example.com", "192.168.1.1 and 203.0.113.7", "version 1.2.3.4", "ISBN 978-0-306-40615-7",
        "3.14159265358979", "1949-10-01 to 2023-12-31", "11010519491231002Y", "4111 1111 1111 1112", "call 555-0123",
        "order 2023120112345", "2147483647", "1,234,567,890", "price: 13800 元", "the years 1914-1918",
        "π≈3.141592653589793",
    ],
)  # fmt: skip
def test_numbers_that_are_nobodys_stay(text: str) -> None:
    assert cleaner().answer(Row("Write it down", "", text), cut=False) == []


def test_rows_that_hold_a_run_of_an_evaluation_set_are_dropped(tmp_path: Path) -> None:
    question = "A train leaves at nine and goes sixty miles an hour; when is it there, two hundred miles away?"
    chinese = "小明有十二个苹果，给了小红五个，又买了三个，请问现在一共有几个苹果？"
    (tmp_path / "a.jsonl").write_text(json.dumps({"q": {"turns": [question]}, "id": 7, "a": "noon"}) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"problem": chinese}, ensure_ascii=False) + "\n", "utf-8")
    judge = cleaner((tmp_path / "a.jsonl", tmp_path / "b.jsonl"), instruction_units=(1, 500))
    (found,) = judge.instruction("Solve this. " + question.upper())
    assert found.detail == {
        "set": "a.jsonl",
        "words": "a train leaves at nine and goes sixty miles an hour when is",
        "runs": 7,
    }
    row = Row("Solve it", f"题目：{chinese}", "十个")
    assert [f.detail["set"] for f in judge.answer(row, False)] == ["b.jsonl"]
    twelve = " ".join(question.replace(";", "").split()[:12])
    assert judge.instruction(f"Say: {twelve} stop") == []
    swapped = question.replace("nine and goes", "goes and nine")
    assert judge.instruction(f"Finish this: {' '.join(swapped.split()[:14])}") == []


def test_an_evaluation_set_of_short_texts_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.jsonl").write_text('{"q": "Who wrote Hamlet?", "a": "Shakespeare"}\n')
    with pytest.raises(UserError) as refused:
        cleaner((tmp_path / "short.jsonl",))
    assert refused.value.problems[0].code == "INSTRUCT-042"
