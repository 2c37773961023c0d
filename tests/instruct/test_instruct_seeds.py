"""Seed tasks: those that ship are good ones, and other people's are read as they are."""

import json
import re
from pathlib import Path

import pytest
from rapidfuzz.distance import Indel

from easyllm.core.errors import UserError
from easyllm.instruct.seeds import Seed, read_seeds
from easyllm.recipes.builtin import materialise

BESIDE_TEXT = re.compile(
    r"\b(image|picture|photo|video|audio|link|website|graph|chart|attach\w*|draw)\b|图片|视频|链接|音频|画一"
)
"""Words of instructions that a text model offline cannot follow."""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Seed]]:
    cache = tmp_path_factory.mktemp("cache")
    files = {code: materialise(f"seeds-{code}", cache, "instruct", "instruct.seeds") for code in ("en", "zh")}
    return {code: read_seeds([file], "instruct") for code, file in files.items()}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def alpaca(instruction: str, output: str = "Yes.", given: str = "") -> dict[str, str]:
    return {"instruction": instruction, "input": given, "output": output}


def test_enough_seed_tasks_of_every_kind_ship_in_both_languages(shipped: dict[str, list[Seed]]) -> None:
    for code, seeds in shipped.items():
        assert len(seeds) >= 66
        assert [seed.id for seed in seeds] == [f"seed_{code}_{number:03d}" for number in range(len(seeds))]
        assert {seed.language for seed in seeds} == {code}
        assert len({seed.name for seed in seeds}) == len(seeds)
        assert sum(bool(seed.is_classification) for seed in seeds) >= 20
        with_input = sum(any(entry["input"] for entry in seed.instances) for seed in seeds)
        assert 0.4 < with_input / len(seeds) < 0.6
        assert sum(len(seed.instances) > 1 for seed in seeds) >= 20
        assert all(entry["output"].strip() == entry["output"] != "" for seed in seeds for entry in seed.instances)
        assert not [seed.id for seed in seeds if BESIDE_TEXT.search(seed.instruction.lower())]


def test_no_two_seed_tasks_that_ship_are_alike(shipped: dict[str, list[Seed]]) -> None:
    tokens = [
        list(seed.instruction) if code == "zh" else seed.instruction.lower().split()
        for code, seeds in shipped.items()
        for seed in seeds
    ]
    pairs = ((a, b) for number, a in enumerate(tokens) for b in tokens[:number])
    assert max(Indel.normalized_similarity(a, b) for a, b in pairs) <= 0.6  # ROUGE-L's F, exactly


def test_labels_of_a_classification_that_ships_differ_between_its_instances(shipped: dict[str, list[Seed]]) -> None:
    several = [
        seed for seeds in shipped.values() for seed in seeds if seed.is_classification and len(seed.instances) > 2
    ]
    assert len(several) >= 15
    assert all(len({entry["output"] for entry in seed.instances}) > 1 for seed in several)


def test_self_instruct_and_alpaca_rows_are_read_mixed(tmp_path: Path) -> None:
    task = {"id": "a", "name": "greet", "instruction": "Greet someone.", "is_classification": False}
    file = write(
        tmp_path / "mine.jsonl",
        task | {"instances": [{"input": "Ana", "output": "Hi Ana!"}, {"input": "Ben", "output": "Hi Ben!"}]},
        alpaca("Is it late?"),
        {"instruction": "数到三。", "output": "一、二、三"},
    )
    greet, late, count = read_seeds([file], "instruct")
    assert greet == Seed("a", "greet", "Greet someone.", greet.instances, False)
    assert [entry["input"] for entry in greet.instances] == ["Ana", "Ben"]
    assert late == Seed("mine:2", "", "Is it late?", [{"input": "", "output": "Yes."}], None)
    assert (count.language, greet.language) == ("zh", "en")


def test_rows_with_one_instruction_are_one_seed_and_nothing_stands_twice_in_it(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", alpaca("Sort it.", "1 2", "2 1"), alpaca("Sort it.", "3 4", "4 3"))
    again = write(tmp_path / "b.jsonl", alpaca(" Sort it. ", "1 2", "2 1"), alpaca("Stop."))
    sort, stop = read_seeds([file, again], "instruct")
    assert sort.instances == [{"input": "2 1", "output": "1 2"}, {"input": "4 3", "output": "3 4"}]
    assert (sort.id, stop.id) == ("a:1", "b:2")


def test_two_files_may_have_the_same_ids_and_one_may_not(tmp_path: Path) -> None:
    rows = [{"id": "s1"} | alpaca("One."), {"id": "s1"} | alpaca("Two.")]
    files = [write(tmp_path / "a.jsonl", rows[0]), write(tmp_path / "b.jsonl", rows[1])]
    assert [seed.id for seed in read_seeds(files, "instruct")] == ["s1", "b:s1"]
    with pytest.raises(UserError) as refused:
        read_seeds([write(tmp_path / "c.jsonl", *rows)], "instruct")
    [entry] = refused.value.problems
    assert (entry.code, entry.line, entry.params["first"]) == ("INSTRUCT-051", 2, 1)


def test_seeds_without_answers_are_refused_unless_the_teacher_is_to_give_them(tmp_path: Path) -> None:
    file = write(tmp_path / "asked.jsonl", {"instruction": "Name a river."}, alpaca("Name a lake.", ""))
    asked = read_seeds([file], "instruct", answered=False)
    assert [(seed.instruction, seed.instances) for seed in asked] == [
        ("Name a river.", [{"input": "", "output": ""}]),
        ("Name a lake.", [{"input": "", "output": ""}]),
    ]
    with pytest.raises(UserError, match=r"IFT-001 .*asked.jsonl:1"):
        read_seeds([file], "instruct")


@pytest.mark.parametrize(
    ("code", "row"),
    [
        ("INSTRUCT-050", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}),
        ("IFT-001", {"question": "Why?", "answer": "So."}),
        ("IFT-002", {"instruction": "Do.", "instances": []}),
        ("IFT-002", {"instruction": "Do.", "instances": [{"input": "x"}]}),
        ("IFT-002", {"instruction": "Do.", "output": "Done.", "is_classification": "yes"}),
        ("DATA-002", {"instruction": " ", "output": "Done."}),
        ("DATA-003", {"instruction": "Do.", "output": " "}),
    ],
)
def test_a_row_that_is_no_task_is_refused_with_its_line(tmp_path: Path, code: str, row: dict[str, object]) -> None:
    file = write(tmp_path / "mine.jsonl", alpaca("Good."), row)
    with pytest.raises(UserError) as refused:
        read_seeds([file], "instruct")
    [entry] = refused.value.problems
    assert (entry.code, entry.file, entry.line) == (code, str(file), 2)


def test_a_file_without_a_task_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(UserError, match=r"INSTRUCT-052 .*empty.jsonl"):
        read_seeds([empty], "instruct")


def test_an_unknown_shelf_name_is_refused_as_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no built-in data named fr; there are: en, zh"):
        materialise("seeds-fr", tmp_path, "instruct", "instruct.seeds")
