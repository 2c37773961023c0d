"""Only rows that a person has accepted are converted."""

import json
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.artifact import Manifest, publish, read_manifest, write_whole
from easyllm.core.errors import UserError
from easyllm.core.freshness import digest_now
from easyllm.instruct.ift.convert import Asked, sft2ift
from easyllm.instruct.ift.write import write_rows
from easyllm.instruct.review.log import Decision, Log
from easyllm.instruct.row import Row

GOOD, BAD, MENDED = [Row(f"Name river {name}", "", f"River {name}", language="en") for name in ("one", "two", "three")]
EDITED = {"instruction": "Name a river", "input": "in Asia", "output": "Yangtze"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose rows wait for a person."""
    kept = tmp_path / "runs" / "x" / "instruct.kept"
    kept.mkdir(parents=True)
    rows = [json.dumps(row.as_json()) + "\n" for row in (GOOD, BAD, MENDED)]
    write_whole(kept / "rows.not_cleaned.jsonl", "".join(rows))
    write_whole(kept / "dropped.jsonl", json.dumps(Row("Dropped", "", "Never").as_json()) + "\n")
    return kept.parent


def log_of(run: Path) -> Log:
    return Log(run / "instruct.kept" / "rows.decisions.jsonl")


def decide(run: Path) -> None:
    log = log_of(run)
    log.append(Decision(GOOD.id, "Li", "accept"))
    log.append(Decision(BAD.id, "Li", "reject"))
    log.append(Decision(MENDED.id, "Li", "edit", EDITED))


def convert(source: Path, out: Path) -> list[dict[str, Any]]:
    sft2ift(Asked((source,), out))
    return [json.loads(line) for line in (out / "rows.jsonl").read_text("utf-8").splitlines()]


def refused(source: Path, out: Path) -> Any:
    with pytest.raises(UserError) as error:
        sft2ift(Asked((source,), out))
    [entry] = error.value.problems
    return entry


PLACES = [".", "instruct", "instruct.kept", "instruct.kept/rows.not_cleaned.jsonl"]


@pytest.mark.parametrize("place", PLACES)
def test_rejected_and_dropped_rows_are_never_converted(run: Path, tmp_path: Path, place: str) -> None:
    decide(run)
    out = tmp_path / "out"
    assert convert(run / place, out) == [{"instruction": GOOD.instruction, "input": "", "output": GOOD.output}, EDITED]
    manifest = read_manifest(out)
    assert manifest is not None
    [review] = manifest.records["reviews"].values()
    assert (review["how"], review["authors"], review["rejected"], review["edited"]) == ("reviewed", ["Li"], 1, 1)


@pytest.mark.parametrize("place", PLACES)
def test_rows_nobody_decided_on_are_refused_with_the_counts_and_the_command(
    run: Path, tmp_path: Path, place: str
) -> None:
    log_of(run).append(Decision(GOOD.id, "Li", "accept"))
    log_of(run).append(Decision(GOOD.id, "Wu", "reject"))
    entry = refused(run / place, tmp_path / "out")
    assert entry.code == "IFT-006"
    assert "of 3 rows, 2 are undecided and 1 in conflict" in entry.what
    assert f"easyllm review {run / place}" in entry.fix
    assert not (tmp_path / "out").exists()


def test_a_review_in_which_nothing_was_accepted_gives_no_rows(run: Path, tmp_path: Path) -> None:
    for row in (GOOD, BAD, MENDED):
        log_of(run).append(Decision(row.id, "Li", "reject"))
    assert refused(run, tmp_path / "out").code == "IFT-010"


def test_rows_to_review_somewhere_below_a_folder_are_not_taken_for_rows_to_train_on(run: Path, tmp_path: Path) -> None:
    decide(run)
    entry = refused(tmp_path, tmp_path / "out")
    assert (entry.code, entry.file) == ("INPUT-008", str(run / "instruct.kept" / "rows.not_cleaned.jsonl"))


def test_what_instruct_published_is_taken_until_somebody_decides_anew(run: Path, tmp_path: Path) -> None:
    decide(run)
    published(run)
    assert [row["output"] for row in convert(run, tmp_path / "out")] == [GOOD.output]
    log_of(run).append(Decision(GOOD.id, "Li", "reject"))
    entry = refused(run / "instruct", tmp_path / "again")
    assert (entry.code, entry.params["changed"]) == ("IFT-007", "instruct.kept/rows.decisions.jsonl")


def published(run: Path) -> None:
    """What the stage leaves: one accepted row to train on, one held out of it."""
    partial = run / "instruct.partial"
    partial.mkdir()
    write_rows(partial / "rows.jsonl", [GOOD], "messages")
    write_rows(partial / "heldout.jsonl", [MENDED], "messages")
    name = "instruct.kept/rows.decisions.jsonl"
    records = {
        "files": {"train": ["rows.jsonl"], "held_out": ["heldout.jsonl"]},
        "watched": {name: digest_now(run / name)},
    }
    publish(
        partial,
        run / "instruct",
        Manifest("rows", "instruct", "x", "", "", {}, {}, [], {}, 1, records=records),
    )
