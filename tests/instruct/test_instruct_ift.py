"""sft2ift: rows of every form become rows of one, nothing is cut, and no instruction stands on both sides."""

import gzip
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from easyllm import cli
from easyllm.core.artifact import read_manifest
from easyllm.core.conversations import Conversation, read_conversations
from easyllm.core.digest import Digests
from easyllm.core.errors import UserError
from easyllm.core.inputs import Place, resolve
from easyllm.evaluate.config import EvaluateConfig
from easyllm.finetune.config import FinetuneConfig
from easyllm.instruct.ift.convert import Asked, sft2ift
from easyllm.instruct.ift.split import hold_out, same_key
from easyllm.instruct.ift.write import FORMS, write_rows
from easyllm.instruct.row import Row
from easyllm.instruct.seeds import read_seeds

ALPACA = [
    {"instruction": "Translate into French.", "input": "Good night.", "output": "Bonne nuit."},
    {"instruction": "Translate into French.", "input": "Thank you.", "output": "Merci."},
    {"instruction": "Name a prime.", "input": "", "output": "7"},
    {"instruction": "把句子补完整。", "input": "春眠不觉晓，", "output": "处处闻啼鸟。🐦\n“好”"},
]
SEEDS = [
    {
        "id": "t1",
        "name": "french",
        "instruction": "Translate into French.",
        "instances": [
            {"input": "Good night.", "output": "Bonne nuit."},
            {"input": "Thank you.", "output": "Merci."},
        ],
        "is_classification": False,
    },
    {
        "id": "t2",
        "name": "",
        "instruction": "Is 7 prime?",
        "instances": [{"input": "", "output": "Yes"}],
        "is_classification": True,
    },
]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "  A name?\n"},
    {"role": "assistant", "content": "Ada"},
]
SHAREGPT = {
    "conversations": [
        {"from": {"user": "human", "assistant": "gpt"}.get(m["role"], m["role"]), "value": m["content"]} for m in TALK
    ]
}


def write(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return rows
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def convert(sources: Path | list[Path], out: Path, write: str = "alpaca", **more: Any) -> list[dict[str, Any]]:
    """The rows to train on."""
    paths = (sources,) if isinstance(sources, Path) else tuple(sources)
    told = sft2ift(Asked(paths, out, write, **more))
    return read(out / told["files"]["train"][0])


def refused(*arguments: Any, **more: Any) -> list[Any]:
    with pytest.raises(UserError) as error:
        convert(*arguments, **more)
    return list(error.value.problems)


@pytest.mark.parametrize(("form", "file_as"), list(itertools.product(FORMS, ["jsonl", "parquet"])))
def test_a_round_trip_through_every_format_that_can_hold_it_is_exact(tmp_path: Path, form: str, file_as: str) -> None:
    """Tasks through formats that keep the input apart; conversations through those that hold many turns."""
    whole = form in ("messages", "sharegpt")
    rows: list[dict[str, Any]] = [{"messages": TALK}] if whole else ALPACA
    there = tmp_path / "there"
    convert(write(tmp_path / "rows.jsonl", rows), there, form, file_as=file_as)
    assert convert(there, tmp_path / "back", "messages" if whole else "alpaca") == rows


def test_self_instruct_comes_back_with_its_ids_names_and_kinds(tmp_path: Path) -> None:
    file = write(tmp_path / "seeds.jsonl", SEEDS)
    assert convert(file, tmp_path / "again", "self-instruct") == SEEDS
    assert convert(file, tmp_path / "columns", "self-instruct", file_as="parquet") == SEEDS
    assert [seed.id for seed in read_seeds([tmp_path / "again" / "rows.jsonl"], "instruct")] == ["t1", "t2"]


def test_an_instance_belongs_to_its_instruction_and_is_a_row_of_its_own(tmp_path: Path) -> None:
    rows = convert(write(tmp_path / "seeds.jsonl", SEEDS), tmp_path / "out")
    assert rows == [*ALPACA[:2], {"instruction": "Is 7 prime?", "input": "", "output": "Yes"}]


def test_every_form_is_recognised_row_by_row_in_one_file(tmp_path: Path) -> None:
    history = {"instruction": "And now?", "output": "Dusk.", "system": "Be brief.", "history": [["Morning?", "Dawn."]]}
    file = write(tmp_path / "mixed.jsonl", [ALPACA[0], {"messages": TALK}, SEEDS[1], SHAREGPT, history])
    found = [row["messages"] for row in convert(file, tmp_path / "out", "messages")]
    assert [len(messages) for messages in found] == [2, 5, 2, 5, 5]
    assert found[0][0] == {"role": "user", "content": "Translate into French.\n\nGood night."}
    assert found[1] == found[3] == TALK
    assert [m["content"] for m in found[4]] == ["Be brief.", "Morning?", "Dawn.", "And now?", "Dusk."]


def test_lists_compressed_files_columns_and_folders_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps([ALPACA[0], {"messages": TALK}]), "utf-8")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(SHAREGPT).encode()))
    table = [
        {"instruction": "Why?", "output": "So.", "messages": None},
        {"instruction": None, "output": None, "messages": TALK},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(table), folder / "c.parquet")
    (folder / "notes.md").write_text("not rows")
    (folder / "dataset_info.json").write_text("{}")
    assert len(convert(folder, tmp_path / "out", "sharegpt")) == 5


@pytest.mark.parametrize("form", ["alpaca", "messages"])
def test_finetune_reads_what_sft2ift_writes(tmp_path: Path, form: str) -> None:
    file = write(tmp_path / "mixed.jsonl", [*ALPACA, *SEEDS, {"messages": TALK[1:3]}])
    convert(file, tmp_path / "out", form)
    said: list[Conversation] = list(read_conversations([tmp_path / "out" / "rows.jsonl"], "finetune"))
    assert len(said) == 8
    assert said[0].messages[0]["content"] == "Translate into French.\n\nGood night."
    assert [m["role"] for row in said for m in row.messages] == ["user", "assistant"] * 8


def test_finetune_and_evaluate_are_given_the_folder_and_take_each_its_own_rows(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(write(tmp_path / "rows.jsonl", many(30)), out, held_out="3")
    place = Place(
        tmp_path, tmp_path, tmp_path, ("convert", "merge"), ("convert", "merge"), Digests(tmp_path / "d.json")
    )
    for stage, section, name in (
        ("finetune", FinetuneConfig(data=[str(out)]), "rows.jsonl"),
        ("evaluate", EvaluateConfig(data=[str(out)]), "heldout.jsonl"),
    ):
        assert resolve(stage, section, place)["data"].files == (out / name,)


def test_the_stages_rows_are_written_in_every_format(tmp_path: Path) -> None:
    rows = [Row(row["instruction"], row["input"], row["output"], is_classification=False) for row in ALPACA]
    for form in FORMS:
        write_rows(tmp_path / f"{form}.jsonl", rows, form)
    assert read(tmp_path / "alpaca.jsonl") == ALPACA
    assert [len(row["instances"]) for row in read(tmp_path / "self-instruct.jsonl")] == [2, 1, 1]
    assert len(read(tmp_path / "messages.jsonl")) == len(read(tmp_path / "sharegpt.jsonl")) == 4


@pytest.mark.parametrize("form", ["alpaca", "self-instruct"])
def test_a_conversation_is_never_cut_to_fit_a_format_of_tasks(tmp_path: Path, form: str) -> None:
    file = write(tmp_path / "talks.jsonl", [ALPACA[0], {"messages": TALK}, SHAREGPT])
    first, second = refused(file, tmp_path / "out", form)
    assert (first.code, first.line, second.line) == ("IFT-003", 2, 3)
    wordless = write(tmp_path / "talks.jsonl", [{"messages": [{"role": "user", "content": " "}, TALK[2]]}])
    assert [entry.code for entry in refused(wordless, tmp_path / "out", form)] == ["DATA-002"]
    assert f"{form} holds one question and its answer, and this row says more: system, user" in str(first)
    assert [path.name for path in tmp_path.iterdir()] == ["talks.jsonl"]


BROKEN_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("IFT-001", {"prompt": "x", "completion": "y"}),
    ("IFT-002", {"conversations": []}),
    ("IFT-002", {"conversations": [{"from": "human", "text": "x"}]}),
    ("IFT-002", {"instruction": "x", "instances": [{"input": "y"}]}),
    ("IFT-002", {"instruction": "x", "output": "y", "history": ["z"]}),
    ("IFT-002", {"instruction": "x", "output": "y", "is_classification": 1}),
    ("DATA-002", {"conversations": [{"from": "human", "value": "x"}]}),
    ("DATA-002", {"conversations": [{"from": "human", "value": "x"}, {"from": "observation", "value": "y"}]}),
    ("DATA-002", {"messages": [{"role": "user", "content": None}]}),
    ("DATA-003", {"instruction": "x", "output": ""}),
]


def test_broken_rows_are_told_together_each_with_its_line(tmp_path: Path) -> None:
    rows = [row for _, broken in BROKEN_ROWS for row in (ALPACA[0], broken)]
    found = refused(write(tmp_path / "rows.jsonl", rows), tmp_path / "out")
    assert [entry.code for entry in found] == [code for code, _ in BROKEN_ROWS]
    assert [entry.line for entry in found] == list(range(2, 2 * len(BROKEN_ROWS) + 1, 2))
    assert not (tmp_path / "out").exists()


def test_a_line_that_is_no_json_is_told_with_what_was_wrong_before_it(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"prompt": "x"}])
    file.write_text(file.read_text() + '{"instruction": \n', "utf-8")
    assert [(entry.code, entry.line) for entry in refused(file, tmp_path / "out")] == [("IFT-001", 1), ("ROWS-001", 2)]


def test_many_broken_rows_do_not_flood_the_screen(tmp_path: Path) -> None:
    assert len(refused(write(tmp_path / "rows.jsonl", [{"prompt": "x"}] * 500), tmp_path / "out")) == 20


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 and no more")
    [entry] = refused(tmp_path / "rows.parquet", tmp_path / "out")
    assert (entry.code, entry.file) == ("ROWS-007", str(tmp_path / "rows.parquet"))


def many(count: int) -> list[dict[str, str]]:
    """Three rows in a row have one instruction, written in three ways."""
    ways = ["Count up to {}.", "  count  up to {}. ", "ＣＯＵＮＴ UP TO {}."]
    return [
        {"instruction": ways[number % 3].format(number // 3), "input": str(number), "output": "ok"}
        for number in range(count)
    ]


@pytest.mark.parametrize("held_out", ["30", "0.2", "20%"])
def test_no_instruction_stands_on_both_sides_and_a_seed_gives_the_same_split(tmp_path: Path, held_out: str) -> None:
    file = write(tmp_path / "rows.jsonl", many(300))
    train = convert(file, tmp_path / "a", held_out=held_out)
    kept = read(tmp_path / "a" / "heldout.jsonl")
    sides = [{same_key(row["instruction"]) for row in side} for side in (train, kept)]
    assert not sides[0] & sides[1]
    assert len(train) + len(kept) == 300
    assert len(kept) == 30 if held_out == "30" else 20 <= len(kept) <= 110
    backwards = write(tmp_path / "backwards.jsonl", reversed(many(300)))
    assert convert(backwards, tmp_path / "b", held_out=held_out) == train[::-1]
    assert convert(file, tmp_path / "c", held_out=held_out, seed=7) != train


def test_held_out_rows_are_as_many_as_asked_or_the_fewest_whole_instructions_above(tmp_path: Path) -> None:
    rows = [Row(row["instruction"], row["input"], row["output"]) for row in many(90)]
    for count in (1, 3, 4, 50):
        train, held_out = hold_out(rows, count, seed=5)
        assert len(held_out) == -(-count // 3) * 3
        assert sorted(row.input for row in train + held_out) == sorted(row.input for row in rows)
    assert hold_out(rows, 0, seed=5) == (rows, [])
    assert hold_out(rows, 90, seed=5)[0] == []


@pytest.mark.parametrize(("held_out", "code"), [("all", "IFT-008"), ("1.5", "IFT-008"), ("0%", "IFT-008"),
                                                ("4", "IFT-009"), ("99", "IFT-009"), ("1e-9", "IFT-009")])  # fmt: skip
def test_a_split_that_leaves_nothing_on_one_side_is_refused(tmp_path: Path, held_out: str, code: str) -> None:
    [entry] = refused(write(tmp_path / "rows.jsonl", ALPACA), tmp_path / "out", held_out=held_out)
    assert entry.code == code
    assert held_out in str(entry)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_yours_is_never_written_over_and_one_of_its_own_is(tmp_path: Path) -> None:
    file, mine = write(tmp_path / "rows.jsonl", ALPACA), tmp_path / "mine"
    mine.mkdir()
    assert len(convert(file, mine)) == 4  # empty
    assert len(convert(write(tmp_path / "one.jsonl", ALPACA[:1]), mine)) == 1  # its own
    assert [entry.code for entry in refused(mine, mine)] == ["IFT-011"]  # to be read
    (tmp_path / "yours").mkdir()
    (tmp_path / "yours" / "thesis.txt").write_text("do not lose")
    assert [entry.code for entry in refused(file, tmp_path / "yours")] == ["IFT-011"]
    assert [entry.code for entry in refused(file, file)] == ["RUN-002"]


def test_sources_that_hold_no_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("instruction,output\n")
    (tmp_path / "blank.jsonl").write_text("\n")
    model = tmp_path / "model"
    convert(write(tmp_path / "rows.jsonl", ALPACA), model)
    text = (model / "manifest.json").read_text("utf-8")
    (model / "manifest.json").write_text(text.replace('"rows"', '"model"', 1), "utf-8")
    wanted = {"nowhere": "IFT-012", "empty": "IFT-004", "rows.csv": "IFT-004"}
    wanted |= {"blank.jsonl": "IFT-010", "model": "IFT-005"}
    assert {name: refused(tmp_path / name, tmp_path / "out")[0].code for name in wanted} == wanted


def test_keys_that_a_format_has_no_place_for_are_counted(tmp_path: Path) -> None:
    weighed = {"messages": [TALK[1] | {"weight": 0}, TALK[2]]}
    rows = [ALPACA[0] | {"source": "web", "id": 7}, ALPACA[1] | {"source": "web"}, SEEDS[0], weighed]
    told = sft2ift(Asked((write(tmp_path / "rows.jsonl", rows),), tmp_path / "out"))
    assert told["left_out"] == {"id": 3, "is_classification": 2, "name": 2, "source": 2, "weight": 1}


def test_the_folder_is_an_artifact_with_its_sources_in_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    convert(write(tmp_path / "rows.jsonl", many(30)), first, held_out="6")
    assert len(convert(first, second, "messages")) == 24  # what was held out stays out
    manifest = read_manifest(second)
    assert manifest is not None
    assert manifest.inputs["source 1"]["digest"] == getattr(read_manifest(first), "digest", None)
    assert manifest.records["files"] == {"train": ["rows.jsonl"], "held_out": []}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_verb_says_what_it_wrote(
    tmp_path: Path, language: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EASYLLM_LANG", language)
    file = str(write(tmp_path / "rows.jsonl", [{"id": 1} | row for row in many(30)]))
    command = ["easyllm", "sft2ift", file, "--held-out", "3", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", command)
    assert cli.main() == 0
    told = capsys.readouterr().out
    assert str(tmp_path / "out" / "heldout.jsonl") in told
    assert "id (30)" in told
    assert bool(re.search(r"[\u4e00-\u9fff]", told)) == (language == "zh")
    monkeypatch.setattr("sys.argv", [*command, "--json", "--as", "parquet", "--write", "sharegpt"])
    assert cli.main() == 0
    assert json.loads(capsys.readouterr().out)["files"] == {"train": ["rows.parquet"], "held_out": ["heldout.parquet"]}
    monkeypatch.setattr("sys.argv", [*command, "--write", "csv"])
    assert cli.main() == 2


def test_a_killed_conversion_leaves_nothing_that_looks_whole_and_the_next_one_works(tmp_path: Path) -> None:
    file, out = write(tmp_path / "rows.jsonl", many(40_000)), tmp_path / "out"
    command = [sys.executable, "-m", "easyllm", "sft2ift", str(file), "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "out.partial" / "rows.jsonl").exists():
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / "out.partial" / "rows.jsonl").exists()
    assert not out.exists()
    assert len(convert(write(tmp_path / "few.jsonl", ALPACA), out)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.jsonl", "out", "rows.jsonl"]
