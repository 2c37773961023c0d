"""The report of what was dropped, in the language of the run, and the teacher's own score of a row."""

import json
import re
from pathlib import Path

import pytest

import easyllm.instruct
from easyllm.core.messages import catalogue
from easyllm.instruct.ask import Answer
from easyllm.instruct.clean import report
from easyllm.instruct.clean.score import SCHEMA, score_ask, score_of
from easyllm.instruct.row import Finding, Row

KEPT = [
    Row(
        "Name a river.", "", "The Rhine", False, "en", nearest={"rouge_l": 0.25, "instruction": "Name a lake."}, score=5
    ),
    Row("把句子译成英文。", "春天", "spring", True, "zh", score=4).found(
        Finding("personal_data", False, {"kinds": []})
    ),
]
DROPPED = [
    Row(f"Name a big river {n} | `x`", "", "", None, "en", nearest={"rouge_l": 0.9, "instruction": "Name a river."})
    .found(Finding("near_duplicate", True, {"rouge_l": 0.9, "other": "Name a\n# river."}))
    for n in range(3)
] + [Row("Draw it all.", "", "", None, "en").found(Finding("forbidden_topic", True, {"topic": "drawing"}))]  # fmt: skip
COUNT = {"requests": 9, "answered": 8, "replayed": 0, "prompt_tokens": 1200, "completion_tokens": 80, "money": 0.25}
LEDGER = {**COUNT, "by_purpose": {"instructions": COUNT}}


def test_the_report_counts_each_reason_and_shows_two_rows_of_each(tmp_path: Path) -> None:
    told = report.write(tmp_path, KEPT, DROPPED, LEDGER)
    assert [(entry["reason"], entry["rows"], len(entry["examples"])) for entry in told["reasons"]] == [
        ("near_duplicate", 3, 2),
        ("forbidden_topic", 1, 1),
    ]
    assert told["flags"] == {"personal_data": 1}
    assert told["languages"] == {"en": 1, "zh": 1}
    assert told["scores"] == {"5": 1, "4": 1, "3": 0, "2": 0, "1": 0}
    assert told["instruction_units"]["100"] == 7
    assert told["requests"] == [{"purpose": "instructions", **COUNT}]
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == told
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "| near duplicate | 3 |" in text
    assert "| instructions | 9 | 8 | 0 | 1,200 | 80 | 0.25 |" in text
    assert [line for line in text.splitlines() if line.lstrip().startswith("# river")] == ["    # river."] * 2
    assert {path.name for path in tmp_path.iterdir()} == set(report.FILES)


def test_the_same_rows_give_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        report.write(tmp_path / name, KEPT, DROPPED, LEDGER)
    for name in report.FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_report_of_a_chinese_run_is_chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYLLM_LANG", "zh")
    text = report.markdown(report.write(tmp_path, KEPT, DROPPED, LEDGER))
    assert "| 近似重复 | 3 |" in text
    heads = [
        line for line in text.splitlines() if line.startswith(("#", "| ")) and not line.startswith(("| zh", "| en"))
    ]
    assert [line for line in heads if not any("\u4e00" <= letter <= "\u9fff" for letter in line)] == [
        line for line in heads if line.split()[1].isdigit()
    ]


def test_a_run_without_rows_has_a_report_too(tmp_path: Path) -> None:
    assert report.write(tmp_path, [], DROPPED[:1], LEDGER)["instruction_units"] == {}
    assert report.write(tmp_path, [], [], {})["reasons"] == []


def answer(text: str) -> Answer:
    return Answer("key", text, "stop", 1, 1)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_teacher_is_asked_for_a_score_in_the_language_of_the_row(language: str) -> None:
    row = Row("Name {x} a river.", "", "The {Rhine}", language=language)
    ask = score_ask(row, top_p=0.9)
    assert (ask.purpose, ask.temperature, ask.top_p, ask.schema) == ("score", 0.0, 0.9, SCHEMA)
    assert "FORM: Score" in ask.form.splitlines()
    said = ask.messages[-1]["content"]
    assert "Name {x} a river." in said
    assert "The {Rhine}" in said
    assert ("输出" in said) == (language == "zh")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"why": "right", "score": 4}', 4), ('```json\n{"score": 2, "why": "10 of 10"}\n```', 2),
        ("4\nIt is right.", 4), ("评分：3\n有缺漏。", 3), ("I give it 5/5.", 5), ('{"score": 9, "why": ""}', None),
        ('{"score": true}', None), ("4.5", None), ("10", None), ("no idea", None), ("", None),
        ('{"score": 4, "why": "cut', 4), ('{"why": "2 errors, so', None), ("分数：4。5 分太高", 4),
    ],
)  # fmt: skip
def test_a_score_is_read_from_json_or_from_plain_words(text: str, score: int | None) -> None:
    assert score_of(answer(text)) == score


def test_every_reason_and_what_stands_behind_it_has_a_chinese_name() -> None:
    found = re.compile(r'Finding\(\s*"(\w+)"(?:,[^{}\n]*\{([^}]*)\})?')
    terms = catalogue("zh")["terms"]
    for path in Path(easyllm.instruct.__file__).parent.rglob("*.py"):
        for reason, detail in found.findall(path.read_text("utf-8")):
            assert [name for name in (reason, *re.findall(r'"(\w+)":', detail)) if name not in terms] == [], path
