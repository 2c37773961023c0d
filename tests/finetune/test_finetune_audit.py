"""What the label audit counts, and what becomes of rows that are too long."""

import json
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.conversations import read_conversations
from easyllm.core.errors import UserError
from easyllm.core.examples import Example, encode
from easyllm.finetune.audit import audit, fitting, histogram
from tiny_tune import ROWS, tiny_tokenizer, tune, write_rows


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    rows = [*ROWS, {"instruction": "word " * 60, "output": "lost"}]
    return encode(tiny_tokenizer(), read_conversations([write_rows(tmp_path / "rows.jsonl", rows)], "f"), "finetune")


def test_truncate_keeps_beginnings_and_leaves_out_rows_that_lose_every_label(examples: list[Example]) -> None:
    limit = len(examples[3].ids) - 1
    assert len(examples[-1].ids) > limit
    fitted = fitting(examples, limit, "truncate")
    assert (len(fitted.kept), fitted.cut) == (len(ROWS), 1)
    assert fitted.left_out == [examples[-1]]
    assert all(e.label_tokens for e in fitted.kept)
    assert fitted.kept[3].ids == examples[3].ids[:limit]
    counted = audit(fitting(examples, limit - 3, "truncate"), 1)
    assert (counted.rows_without_labels, counted.rows_without_end, counted.rows_cut) == (0, 1, 1)


def test_held_out_rows_that_are_too_long_are_named(examples: list[Example]) -> None:
    held_out = fitting(examples, 100, "drop")
    counted = audit(fitting(examples[:3], 100, "drop"), 1, held_out)
    assert [entry["line"] for entry in counted.held_out["dropped"]] == [len(examples)]


def test_nothing_left_is_refused_whatever_the_policy(examples: list[Example]) -> None:
    for policy in ("refuse", "drop", "truncate"):
        with pytest.raises(UserError, match="DATA-004"):
            fitting(examples, 3, policy)


def test_every_length_stands_in_one_bar() -> None:
    lengths = [3, 3, 4, 50, 103]
    bars = histogram(lengths)
    assert sum(bar["rows"] for bar in bars) == 5
    assert bars[0]["rows"] == 3
    assert (bars[0]["from"], bars[-1]["to"] >= 103, len(bars)) == (3, True, 10)
    assert histogram([7, 7]) == [{"from": 7, "to": 7, "rows": 2}]


def test_the_audit_is_printed_and_written_with_rows_as_they_are_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(
        tmp_path / "rows.jsonl", [*ROWS[:3], ROWS[0], {"instruction": "Show ````code````.", "output": "```x```"}]
    )
    changes: dict[str, Any] = {"epochs": 1, "labels": "last", "sequence_tokens": 60}
    tune(tmp_path, **changes)
    told = capsys.readouterr().err
    assert "█" in told
    assert "1 rows say the same as an earlier row" in told
    out = tmp_path / "run" / "finetune"
    shown = (out / "label_audit.md").read_text("utf-8")
    assert "rows.jsonl:1" in shown
    assert "- 1 rows say the same as an earlier row" in shown
    assert "⟦The door is red.<|end|>⟧" in shown
    record = json.loads((out / "label_audit.json").read_text("utf-8"))
    assert record["sources"] == [
        {
            "source": "data: rows.jsonl",
            "weight": 1.0,
            "rows": 5,
            "tokens": record["tokens"],
            "label_tokens": record["label_tokens"],
        }
    ]
    assert sum(bar["rows"] for bar in record["lengths"]) == record["rows"] == 5
    assert record["rows_same"] == 1
