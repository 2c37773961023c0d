"""The whole stage by the real command: a teacher that misbehaves, three kills, a review, and the conversion."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rapidfuzz.distance import Indel

from easyllm.instruct.review.decisions import set_digest
from easyllm.instruct.review.folder import find
from easyllm.instruct.review.log import Decision, Log
from misbehaving_teacher import MISBEHAVING, Teacher, misbehaving_teacher

ROWS = 200
WAITING = 3
KILLED_AT = (60, 160, 300)
"""Answers kept when the run is killed."""


@dataclass
class Whole:
    """One run, as it lies on disk when its rows wait for a person."""

    folder: Path
    recipe: Path
    teacher: Teacher
    printed: str

    @property
    def kept(self) -> Path:
        return self.folder / "runs" / "rows" / "instruct.kept"

    @property
    def artifact(self) -> Path:
        return self.folder / "runs" / "rows" / "instruct"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def recipe_of(folder: Path, teacher: Teacher, **changed: Any) -> Path:
    section = {
        "teacher": {"base_url": teacher.url, "model": "fake", "concurrency": 16, "retries": 12},
        "seeds": ["builtin:en", "builtin:zh"],
        "count": ROWS,
    }
    path = folder / "rows.yaml"
    path.write_text(yaml.safe_dump({"name": "rows", "instruct": section | changed}, allow_unicode=True), "utf-8")
    return path


def started(folder: Path, recipe: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "easyllm", "run", recipe.name], cwd=folder, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("whole")
    with misbehaving_teacher(**MISBEHAVING, delay=0.01, slow_seconds=0.1) as teacher:
        recipe = recipe_of(folder, teacher)
        answers = folder / "runs" / "rows" / "instruct.kept" / "answers.jsonl"
        for wanted in KILLED_AT:
            process = started(folder, recipe)
            deadline = time.monotonic() + 120
            while not answers.is_file() or answers.read_bytes().count(b"\n") < wanted:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process = started(folder, recipe)
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == WAITING, printed
        yield Whole(folder, recipe, teacher, printed)


def test_two_hundred_rows_come_from_a_misbehaving_teacher_across_three_kills(whole: Whole) -> None:
    rows = lines(whole.kept / "rows.not_cleaned.jsonl")
    assert len(rows) == ROWS
    assert len({row["id"] for row in rows}) == ROWS
    assert {row["language"] for row in rows} == {"en", "zh"}
    assert {row["is_classification"] for row in rows} >= {True, False}
    assert "easyllm review runs/rows/instruct" in whole.printed


def words(text: str) -> list[str]:
    """As ROUGE-L counts: words, and single characters of Chinese."""
    return re.findall(r"[a-z0-9]+|[\u4e00-\u9fff]", text.lower())


def test_no_two_of_them_are_near_duplicates_in_either_language(whole: Whole) -> None:
    texts = sorted({row["instruction"] for row in lines(whole.kept / "rows.not_cleaned.jsonl")})
    for number, text in enumerate(texts):
        for other in texts[:number]:
            assert Indel.normalized_similarity(words(text), words(other)) <= 0.7, (text, other)


def test_every_dropped_row_says_why_and_the_report_counts_it(whole: Whole) -> None:
    dropped = lines(whole.kept / "dropped.jsonl")
    reasons = Counter(found["reason"] for row in dropped for found in row["findings"] if found["drops"])
    assert all(any(found["drops"] for found in row["findings"]) for row in dropped)
    assert reasons.keys() >= {"near_duplicate", "exact_duplicate"}
    report = (whole.kept / "report.md").read_text("utf-8")
    for count in reasons.values():
        assert str(count) in report


def test_the_ledger_is_what_the_teacher_counted_and_nothing_was_paid_twice(whole: Whole) -> None:
    counted = whole.teacher.count()
    ledger = json.loads((whole.kept / "made.json").read_text("utf-8"))["records"]["ledger"]
    answers = lines(whole.kept / "answers.jsonl")
    assert counted["keys_billed_twice"] == 0
    assert len(answers) == len({line["key"] for line in answers}) == ledger["answered"] == counted["keys_billed"]
    assert counted["prompt_tokens"] == ledger["prompt_tokens"]
    assert counted["completion_tokens"] == ledger["completion_tokens"]
    # What a kill caught between the ledger and the wire was written and not sent.
    assert ledger["requests"] - ledger["lost"] <= counted["requests"] <= ledger["requests"]
    assert ledger["lost"] <= 16 * len(KILLED_AT)
    for status in ("429", "500", "502", "503"):
        seen, told = counted["by_status"].get(status, 0), ledger["failed"].get(status, 0)
        assert told <= seen <= told + ledger["lost"], status
    assert counted["by_status"]["429"] > 0
    assert counted["by_status"]["cut"] > 0


def test_a_recorded_run_gives_the_same_bytes_with_no_network(whole: Whole, tmp_path: Path, easyllm: Any) -> None:
    shutil.copyfile(whole.kept / "answers.jsonl", tmp_path / "answers.jsonl")
    recipe = recipe_of(tmp_path, whole.teacher, recorded=["answers.jsonl"])
    done = easyllm("run", recipe, "instruct.teacher.base_url=http://127.0.0.1:9/v1", expect=WAITING)
    again = tmp_path / "runs" / "rows" / "instruct.kept"
    for name in ("rows.not_cleaned.jsonl", "dropped.jsonl"):
        assert (again / name).read_bytes() == (whole.kept / name).read_bytes(), done.stderr
    assert json.loads((again / "made.json").read_text("utf-8"))["records"]["ledger"]["requests"] == 0


def test_only_accepted_rows_are_trained_on(whole: Whole, tmp_path: Path, easyllm_in: Any) -> None:
    """After the rows above were looked at: this test decides on them."""
    folder = find(whole.artifact)
    rows, log = folder.rows(), Log(folder.log_file)
    rejected, edited, accepted = rows[::10], rows[1::10], [row for n, row in enumerate(rows) if n % 10 > 1]
    for row in rejected:
        log.append(Decision(row.id, "li", "reject", note="wrong"))
    for row in edited:
        better = {"instruction": row.instruction, "input": row.input, "output": f"{row.output} Better."}
        log.append(Decision(row.id, "li", "edit", better))
    for row in accepted[1:]:
        log.append(Decision(row.id, "li", "accept"))
    waits = easyllm_in(whole.folder, "run", whole.recipe, expect=WAITING)
    assert "1 undecided" in waits.stdout
    log.append(Decision(accepted[0].id, "li", "accept"))
    before = whole.teacher.count()["requests"]
    done = easyllm_in(whole.folder, "run", whole.recipe, "instruct.held_out_rows=20", expect=0)
    assert whole.teacher.count()["requests"] == before  # nothing is asked again, whatever else the recipe asks for
    train, held_out = lines(whole.artifact / "rows.jsonl"), lines(whole.artifact / "heldout.jsonl")
    outputs = {(row["instruction"], row["input"], row["output"]) for row in (*train, *held_out)}
    assert len(train) + len(held_out) == ROWS - len(rejected)
    assert len(held_out) >= 20
    assert not {(r.instruction, r.input, r.output) for r in rejected} & outputs
    assert not {(r.instruction, r.input, r.output) for r in edited} & outputs
    assert {(r.instruction, r.input, f"{r.output} Better.") for r in edited} <= outputs
    assert not {row["instruction"] for row in train} & {row["instruction"] for row in held_out}
    manifest = json.loads((whole.artifact / "manifest.json").read_text("utf-8"))
    assert manifest["kind"] == "rows"
    assert manifest["records"]["review"]["authors"] == ["li"]
    assert manifest["metrics"]["rejected"] == len(rejected)
    assert "180 accepted" in done.stdout

    converted = easyllm_in(whole.folder, "sft2ift", whole.kept, "--out", tmp_path / "ift", "--write", "messages")
    said = "".join(path.read_text("utf-8") for path in sorted((tmp_path / "ift").glob("*.jsonl")))
    assert len(said.splitlines()) == ROWS - len(rejected), converted.stderr

    # A decision taken back, or a row edited in the file, makes what was published stale.
    log.append(Decision(accepted[0].id, "li", "undo"))
    assert "1 undecided" in easyllm_in(whole.folder, "run", whole.recipe, "instruct.held_out_rows=20", expect=3).stdout
    log.append(Decision(accepted[0].id, "li", "accept"))
    text = folder.rows_file.read_text("utf-8")
    old = json.dumps(accepted[1].output, ensure_ascii=False)
    folder.rows_file.write_text(text.replace(old, json.dumps("Changed by hand.")), "utf-8")
    waits = easyllm_in(whole.folder, "run", whole.recipe, "instruct.held_out_rows=20", expect=WAITING)
    assert "undecided" in waits.stdout
    assert set_digest(folder.rows()) != set_digest(rows)
    refused = easyllm_in(whole.folder, "run", whole.recipe, "instruct.count=150", expect=2)
    assert "INSTRUCT-008" in refused.stderr


def test_decisions_made_elsewhere_are_seen_by_the_reviewer_here(whole: Whole, tmp_path: Path) -> None:
    """Copied once, each with its time; what the same author decided here since is not undone by them."""
    here, row = Log(tmp_path / "here.decisions.jsonl"), find(whole.kept).rows()[0].id
    elsewhere = [
        Decision(row, "li", "reject", time="2026-01-01T00:00:00+00:00"),
        Decision(row, "wu", "accept", time="2026-01-02T00:00:00+00:00"),
    ]
    here.append(Decision(row, "li", "accept"))
    assert here.bring_in(elsewhere) == 1
    assert here.bring_in(elsewhere) == 0
    assert [(entry.author, entry.verdict) for entry in here.read()] == [("li", "accept"), ("wu", "accept")]
