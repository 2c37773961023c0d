"""Several sources, each seen as often as its weight says."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.conversations import Share
from easyllm.core.errors import UserError
from easyllm.finetune.order import order, rows_in_all, rows_in_epoch
from easyllm.finetune.plan import plan
from easyllm.finetune.sources import data_rows
from tiny_tune import FINETUNE, ROWS, check, make_job, tune, write_base, write_rows

ONE, TWICE, HALF, ODD = Share("a"), Share("b", 2.0), Share("c", 0.5), Share("d", 1.3)


def test_weights_are_counted_exactly_and_copies_stand_in_different_steps() -> None:
    shares = [ONE] * 20 + [TWICE] * 15 + [HALF] * 11 + [ODD] * 10
    lengths = [(n * 37) % 50 + 5 for n in range(len(shares))]
    steps = order(lengths, 4, 4, 1, shares)
    assert steps == order(lengths, 4, 4, 1, shares) != order(lengths, 4, 4, 2, shares)
    seen = [Counter(row for step in steps if step.epoch == epoch for row in step.rows) for epoch in (1, 2, 3, 4)]
    for epoch, counted in enumerate(seen, start=1):
        assert counted.total() == rows_in_epoch(shares, epoch)
        assert all(counted[row] == 1 for row in range(20))
        assert all(counted[row] == 2 for row in range(20, 35))
        assert sum(counted[row] for row in range(46, 56)) == 13
        assert all(1 <= counted[row] <= 2 for row in range(46, 56))
    halves = [{row for row in range(35, 46) if counted[row]} for counted in seen]
    assert [len(half) for half in halves] == [5, 6, 5, 6]
    assert halves[0] | halves[1] == halves[2] | halves[3] == set(range(35, 46))
    assert all(not one & other for one, other in list(pairwise(halves))[::2])
    assert all(len(set(step.rows)) == len(step.rows) for step in steps)


def test_rows_of_equal_length_twice_in_an_epoch_never_meet() -> None:
    steps = order([7] * 12, 4, 3, 5, [TWICE] * 12)
    assert all(len(set(step.rows)) == 4 for step in steps)
    assert len(steps) == 18


def test_steps_beyond_the_last_one_are_never_made(tmp_path: Path) -> None:
    shares = [ONE, HALF] * 9
    assert order([7] * 18, 4, 10**9, 1, shares, 5) == order([7] * 18, 4, 3, 1, shares)[:5]
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    figures = plan(make_job(tmp_path, "finetune", FINETUNE | {"epochs": 10**9, "max_steps": 5})).figures
    assert figures["optimizer steps"] == 5


def test_weights_that_draw_no_row_in_any_epoch_are_refused(tmp_path: Path) -> None:
    assert rows_in_all([HALF], 1) == 0
    assert rows_in_all([HALF], 2) == 1
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl")
    small: dict[str, Any] = {"data": [{"rows": "rows.jsonl", "weight": 0.001}]}
    job = make_job(tmp_path, "finetune", FINETUNE | small)
    (found,) = check(job)
    assert (found.code, found.params["rows"]) == ("DATA-007", len(ROWS))
    with pytest.raises(UserError, match="DATA-007"):  # of rows that no check could read
        tune(tmp_path, **small)


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_rows(tmp_path / folder / "rows.jsonl", ROWS[:3])
    write_rows(tmp_path / "few.jsonl", ROWS[:3])
    job = make_job(tmp_path, "finetune", FINETUNE | {"data": ["one", "two/rows.jsonl", "few.jsonl"]})
    shares = dict.fromkeys(row.share.entry for row in data_rows(job))
    assert list(shares) == ["data: one/rows.jsonl", "data: two/rows.jsonl", "data: few.jsonl"]


def test_a_weight_of_one_changes_nothing() -> None:
    lengths = [(n * 37) % 50 + 5 for n in range(101)]
    assert order(lengths, 8, 3, 1) == order(lengths, 8, 3, 1, [ONE] * 101)


@pytest.fixture
def weighted(tmp_path: Path) -> dict[str, Any]:
    write_base(tmp_path / "base")
    write_rows(tmp_path / "rows.jsonl", ROWS[:8])
    write_rows(tmp_path / "more.jsonl", ROWS[6:12])
    write_rows(tmp_path / "few.jsonl", ROWS[12:])
    return {
        "data": ["rows.jsonl", {"rows": "more.jsonl", "weight": 2}, {"rows": ["few.jsonl"], "weight": 0.5}],
        "validation_rows": 3,
        "epochs": 2,
    }


def test_held_out_rows_are_chosen_over_all_sources_with_their_copies(tmp_path: Path, weighted: dict[str, Any]) -> None:
    job = make_job(tmp_path, "finetune", FINETUNE | weighted)
    assert check(job) == []
    shares = [row.share for row in data_rows(job)]
    assert [share.weight for share in dict.fromkeys(shares)] == [1, 2, 0.5]
    figures = plan(job).figures
    assert "more.jsonl (" in figures["rows by weight"]
    manifest = tune(tmp_path, **weighted)
    assert manifest.metrics["steps"] == figures["optimizer steps"]
    audit = (tmp_path / "run" / "finetune" / "label_audit.md").read_text("utf-8")
    assert "| data.1.rows: more.jsonl | 2 |" in audit
    assert manifest.records["held_out"]["rows"] >= 3


def test_data_that_is_weighted_throughout_needs_no_plain_entry(tmp_path: Path, weighted: dict[str, Any]) -> None:
    job = make_job(tmp_path, "finetune", FINETUNE | {"data": weighted["data"][1:]})
    assert check(job) == []
    assert plan(job).figures["rows to train on"] == 10
