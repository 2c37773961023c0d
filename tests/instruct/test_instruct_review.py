"""The verb ``easyllm review`` without page and terminal, the folder it finds, and the log as a file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from easyllm import cli
from easyllm.core.errors import UserError
from easyllm.instruct.review.decisions import gate
from easyllm.instruct.review.folder import find
from easyllm.instruct.review.log import Decision, Log, Lot, merged
from easyllm.instruct.review.verb import author_of
from easyllm.instruct.row import Row
from reviewing import ROWS, to_review


@pytest.fixture
def review(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``review(folder, "--json")``: (exit code, what is printed) of the command."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["easyllm", "review", *map(str, arguments)])
        code = cli.main()
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def code_of(work, *arguments: object) -> str:
    with pytest.raises(UserError) as refused:
        work(*arguments)
    return refused.value.problems[0].code


def test_a_run_is_found_by_its_folder_its_stage_what_it_kept_and_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = to_review(tmp_path / "demo" / "instruct.kept")
    file = kept / "rows.not_cleaned.jsonl"
    found = [find(place) for place in (tmp_path / "demo", tmp_path / "demo" / "instruct", kept, file)]
    assert set(found) == {find(file)}
    assert found[0].log_file == kept / "rows.decisions.jsonl"
    assert found[0].rows() == ROWS
    monkeypatch.chdir(tmp_path / "demo")
    assert find(Path()).rows() == ROWS


def test_nothing_or_several_files_to_review_are_refused_and_named(tmp_path: Path, review) -> None:
    for place in (tmp_path, tmp_path / "nowhere", to_review(tmp_path / "a") / "x.txt"):
        assert "REVIEW-001" in review(place)[1]
    to_review(tmp_path / "a", name="others")
    code, said = review(tmp_path / "a")
    assert code == 2
    assert "REVIEW-002" in said
    assert "others.not_cleaned.jsonl, rows.not_cleaned.jsonl" in said


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ('{"instruction": "a"', "ROWS-001", "2"),
        ('{"instruction": "a", "output": 3}', "REVIEW-003", "output"),
        ('{"instruction": " ", "output": "b"}', "REVIEW-003", "instruction"),
        ('{"instruction": "a", "output": "b", "input": null}', "REVIEW-003", "input"),
        ('{"instruction": "a", "output": "b", "findings": [{"why": 1}]}', "REVIEW-003", "findings"),
    ],
)
def test_a_line_that_is_no_row_is_refused_with_its_number(
    tmp_path: Path, review, line: str, code: str, said: str
) -> None:
    file = to_review(tmp_path) / "rows.not_cleaned.jsonl"
    file.write_text(file.read_text("utf-8").split("\n")[0] + "\n" + line + "\n", "utf-8")
    ended, text = review(tmp_path, "--json")
    assert ended == 2
    (error,) = json.loads(text)["errors"]
    assert (error["code"], error["line"]) == (code, 2)
    assert said in error["message"] + str(error["line"])


def test_a_file_without_rows_is_refused(tmp_path: Path, review) -> None:
    to_review(tmp_path)
    (tmp_path / "rows.not_cleaned.jsonl").write_text("")
    assert "REVIEW-009" in review(tmp_path, "--json")[1]


def test_rows_of_others_with_three_texts_are_reviewed_too(tmp_path: Path) -> None:
    (tmp_path / "mine.not_cleaned.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    assert find(tmp_path).rows() == [Row("a", "", "b")]


def test_what_a_kill_left_of_a_line_is_passed_over_and_cut_off_by_the_next_decision(tmp_path: Path) -> None:
    log = Log(tmp_path / "rows.decisions.jsonl")
    first = log.append(Decision("a", "Li", "accept"))
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b'{"row": "b", "author": "Li", "verd' + "说".encode() * 50_000)
    assert log.read() == [first]
    second = log.append(Decision("b", "李", "edit", {"instruction": "一", "input": "", "output": "二"}))
    assert log.read() == [first, second]
    log.path.write_bytes(log.path.read_bytes().rstrip(b"\n"))  # by hand, with an editor that ends no line
    third = log.append(Lot("undo-lot", "Li", "digest"))
    assert log.read() == [first, second, third]
    log.path.write_bytes(b'{"row": "b"')
    assert log.read() == []
    assert log.append(first).time > first.time


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"row": "a", "author": "Li", "verdict": "perhaps"}',
        '{"row": "a", "author": "Li", "verdict": "edit"}',
        '{"rows": "a", "author": "Li", "verdict": "accept-all"}',
        '{"rows": "a", "author": "Li", "verdict": "accept-lot"}',
        '{"author": "Li", "verdict": "accept"}',
    ],
)
def test_a_broken_line_of_the_log_is_refused_with_its_number(tmp_path: Path, review, line: str) -> None:
    log = find(to_review(tmp_path)).log
    log.append(Decision(ROWS[0].id, "Li", "accept"))
    with log.path.open("a") as file:
        file.write(line + "\n")
    log.append(Decision(ROWS[1].id, "Li", "accept"))
    code, said = review(tmp_path, "--json")
    (error,) = json.loads(said)["errors"]
    assert (code, error["code"], error["line"]) == (2, "REVIEW-004", 2)


WRITER = """
import sys
from pathlib import Path
from easyllm.instruct.review.log import Decision, Log
log = Log(Path(sys.argv[1]))
for number in range(100):
    log.append(Decision(f"{number}", sys.argv[2], "reject", note=sys.argv[2] * 20_000))
"""


def test_two_processes_write_at_once_and_no_decision_is_lost_or_mixed(tmp_path: Path) -> None:
    log = Log(tmp_path / "rows.decisions.jsonl")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(log.path), name]) for name in ("L", "W")]
    while any(writer.poll() is None for writer in writers):
        for entry in log.read():  # whoever reads meanwhile sees whole lines only
            assert isinstance(entry, Decision)
            assert entry.note == entry.author * 20_000
    assert [writer.returncode for writer in writers] == [0, 0]
    entries = log.read()
    for name in ("L", "W"):
        assert [e.row for e in entries if isinstance(e, Decision) and e.author == name] == [str(n) for n in range(100)]


def test_a_decision_that_cannot_be_kept_is_not_confirmed(tmp_path: Path) -> None:
    log = Log(tmp_path / "nowhere" / "rows.decisions.jsonl")
    assert code_of(log.append, Decision("a", "Li", "accept")) == "REVIEW-007"
    full = Log(Path("/dev/full"))
    assert code_of(full.append, Decision("a", "Li", "accept")) == "REVIEW-007"


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find(to_review(tmp_path))
    folder.log.append(Decision("a", "Li", "accept"))

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # tests may run as root, who may read everything
    assert code_of(folder.rows) == "REVIEW-011"
    assert code_of(folder.log.read) == "REVIEW-011"


def test_logs_of_several_places_are_one_by_their_times(tmp_path: Path) -> None:
    here, there = Log(tmp_path / "a.jsonl"), Log(tmp_path / "b.jsonl")
    first = here.append(Decision("a", "Li", "accept"))
    there.path.write_bytes(here.path.read_bytes())  # a copy taken early
    last = here.append(Decision("a", "Li", "undo"))
    assert merged([here, there])[-1] == last
    assert merged([there, here]) == [first, first, last]


def test_accepting_all_unseen_needs_to_be_meant(tmp_path: Path, review) -> None:
    log = find(to_review(tmp_path)).log
    log.append(Decision(ROWS[0].id, "Wu", "reject"))
    code, said = review(tmp_path, "--accept-all")
    assert (code, log.read()[1:]) == (2, [])
    assert "REVIEW-005  --accept-all would accept 3 rows that nobody has looked at." in said
    code, said = review(tmp_path, "--accept-all", "--i-know", "--author", "Li")
    assert code == 0
    assert "4 rows: 3 accepted, 1 rejected, 0 undecided, 0 in conflict." in said
    assert gate(ROWS, log.read()).record()["how"] == "all"
    assert "nothing to accept" in review(tmp_path, "--accept-all", "--i-know")[1]
    assert len(log.read()) == 2


def test_a_script_reads_where_the_rows_stand(tmp_path: Path, review) -> None:
    log = find(to_review(tmp_path)).log
    log.append(Decision(ROWS[0].id, "Li", "accept"))
    log.append(Decision(ROWS[1].id, "Li", "accept"))
    log.append(Decision(ROWS[1].id, "Wu", "reject"))
    code, said = review(tmp_path, "--json", "--sample", "0.5")
    found = json.loads(said)
    assert code == 0
    assert found["counts"] == {"undecided": 2, "accepted": 1, "rejected": 0, "conflict": 1}
    assert (found["whole"], found["decisions"]) == (False, {"Li": 2, "Wu": 1})
    assert found["sampling"]["needed"] == 2
    done = json.loads(review(tmp_path, "--accept-all", "--i-know", "--json")[1])
    assert (done["counts"]["accepted"], done["whole"], done["gate"]["how"]) == (3, False, "all")  # the conflict stays


def test_a_sample_asked_for_where_nobody_sits_prints_the_plan(tmp_path: Path, review, monkeypatch) -> None:
    rows = [Row(f"Name {number} animals", "", "Answer") for number in range(400)]
    monkeypatch.setattr("sys.stdin", Path("/dev/null").open())  # noqa: SIM115  # monkeypatch needs it open till the end
    code, said = review(to_review(tmp_path, rows), "--sample", "0.02")
    assert code == 0
    assert "Sample: 134 of 400 rows" in said
    assert f"easyllm review {tmp_path} --sample 0.02 --tui" in said
    assert "--sample 0.02 --confidence 0.9 --tui" in review(tmp_path, "--sample", "0.02", "--confidence", "0.9")[1]
    assert not find(tmp_path).log_file.exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--i-know"], "REVIEW-010"),
        (["--confidence", "0.9"], "REVIEW-010"),
        (["--tui", "--json"], "REVIEW-010"),
        (["--tui", "--port", "8000"], "REVIEW-010"),
        (["--json", "--no-open"], "REVIEW-010"),
        (["--json", "--author", "Li"], "REVIEW-010"),
        (["--accept-all", "--i-know", "--sample", "0.1"], "REVIEW-010"),
        (["--sample", "2"], "REVIEW-008"),
        (["--sample", "0.1", "--confidence", "1"], "REVIEW-008"),
        (["--tui", "--author", " "], "REVIEW-006"),
        (["--tui", "--author", "a\x1b[2Jb"], "REVIEW-006"),
    ],
    ids=" ".join,
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, review, options: list[str], code: str) -> None:
    ended, said = review(to_review(tmp_path), *options)
    assert (ended, code in said) == (2, True), said


def test_a_user_without_a_name_must_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "李雷")
    assert author_of(None) == "李雷"

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert code_of(author_of, None) == "REVIEW-006"
