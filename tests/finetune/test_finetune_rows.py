"""Rows of a user's file: which shapes are read, what is refused and where, what is held out."""

import json
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.conversations import messages_of, read_conversations
from easyllm.core.errors import UserError
from easyllm.finetune.order import order
from easyllm.finetune.split import split
from tiny_tune import FINETUNE, ROWS, check, make_job, write_base, write_rows


def test_both_row_shapes_become_the_same_conversation() -> None:
    alpaca = messages_of({"instruction": "Add.", "input": "2 + 3", "output": "5"}, "finetune", Path("f"), 1)
    chat = [{"role": "user", "content": "Add.\n\n2 + 3"}, {"role": "assistant", "content": "5"}]
    assert alpaca == messages_of({"messages": chat}, "finetune", Path("f"), 1) == chat


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"text": "prose"}, "DATA-001"),
        ({"instruction": "only a question"}, "DATA-001"),
        ({"messages": []}, "DATA-002"),
        ({"messages": [{"role": "user", "content": "no answer"}]}, "DATA-002"),
        ({"messages": [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "x"}]}, "DATA-002"),
        ({"messages": [{"role": "user", "content": ["parts"]}]}, "DATA-002"),
        ({"instruction": "q", "input": 3, "output": "a"}, "DATA-002"),
        ({"instruction": " ", "output": "a"}, "DATA-002"),
        ({"instruction": "q", "output": " \n"}, "DATA-003"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_named_by_file_and_line(
    tmp_path: Path, row: dict[str, Any], code: str
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [ROWS[0], row])
    with pytest.raises(UserError) as refused:
        list(read_conversations([path], "finetune"))
    (found,) = refused.value.problems
    assert (found.code, found.file, found.line) == (code, str(path), 2)


def test_held_out_rows_do_not_depend_on_their_place_and_take_their_copies_along(tmp_path: Path) -> None:
    rows = [*ROWS, ROWS[0], ROWS[2]]
    forward = list(read_conversations([write_rows(tmp_path / "a.jsonl", rows)], "finetune"))
    backward = list(read_conversations([write_rows(tmp_path / "b.jsonl", rows[::-1])], "finetune"))
    for count in (1, 5, 9):
        one, other = split(forward, count, 7, []), split(backward, count, 7, [])
        held = {row.digest for row in one.held_out}
        assert held == {row.digest for row in other.held_out}
        assert len(held) == count
        assert not held & {row.digest for row in one.train}
        assert one.same == 2
    assert {r.digest for r in split(forward, 5, 7, []).held_out} != {
        r.digest for r in split(forward, 5, 8, []).held_out
    }


def test_more_validation_rows_than_rows_are_refused_before_training(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    (found,) = check(make_job(tmp_path, "finetune", FINETUNE | {"validation_rows": 2000}))
    assert found.code == "DATA-005"
    assert (found.params["asked"], found.params["rows"]) == (2000, len(ROWS))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text("\n")
    assert [p.code for p in check(make_job(tmp_path, "finetune", FINETUNE))] == ["DATA-006"]


def test_a_batch_that_does_not_divide_names_the_nearest_legal_values(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    job = make_job(tmp_path, "finetune", FINETUNE | {"batch": {"global_samples": 128, "micro_samples": 24}})
    (found,) = check(job)
    assert found.code == "TRAIN-001"
    assert "120, 144" in found.fix


def test_longer_sequences_than_the_base_has_positions_are_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    (found,) = check(make_job(tmp_path, "finetune", FINETUNE | {"sequence_tokens": 1024}))
    assert (found.code, found.params["limit"]) == ("TRAIN-003", 256)


def test_every_row_is_seen_once_an_epoch_and_the_order_is_a_function_of_the_seed() -> None:
    lengths = [(n * 37) % 50 + 5 for n in range(101)]
    steps = order(lengths, 8, 3, seed=1)
    assert steps == order(lengths, 8, 3, seed=1) != order(lengths, 8, 3, seed=2)
    for epoch in (1, 2, 3):
        rows = [row for step in steps if step.epoch == epoch for row in step.rows]
        assert sorted(rows) == list(range(101))
    sizes = [len(step.rows) for step in steps]
    assert sorted(sizes) == [5, 5, 5] + [8] * 36  # 101 = 12 x 8 + 5: nothing dropped, nothing seen twice


def test_the_shipped_rows_are_good_and_nothing_held_out_is_trained() -> None:
    data = Path(__file__).parents[2] / "easyllm" / "recipes" / "data"
    train = list(read_conversations([data / "house-facts.jsonl"], "finetune"))
    held_out = list(read_conversations([data / "house-facts.heldout.jsonl"], "evaluate"))
    asked = {message["content"] for row in train for message in row.messages if message["role"] == "user"}
    later = [row.messages[0]["content"] for row in held_out]
    later += [json.loads(line)["prompt"] for line in (data / "house-facts.prompts.jsonl").open(encoding="utf-8")]
    assert not asked & set(later)
    assert len({row.digest for row in train}) == len(train)
