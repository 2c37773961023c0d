"""The review in the terminal, driven through a real one."""

import re
import signal
import subprocess
import sys
from pathlib import Path

from easyllm.instruct.review.decisions import gate
from easyllm.instruct.review.folder import find
from easyllm.instruct.review.log import Decision
from easyllm.instruct.row import Finding, Row
from reviewing import ROWS, at_terminal, to_review


def verdicts(folder: Path) -> list[str]:
    return [entry.verdict for entry in find(folder).log.read()]


def test_a_person_accepts_edits_rejects_and_takes_back_with_one_key_each(tmp_path: Path) -> None:
    with at_terminal("review", to_review(tmp_path), "--tui", "--author", "李雷") as person:
        person.wait("row 1 of 4")
        person.press("a", "row 2 of 4")
        person.press("r", "1 wrong answer")
        person.press("1\n", "row 3 of 4")
        person.press("e", "Instruction (Enter alone keeps it): Name 2 animals")
        person.press(" of the sea\n", "Input (Enter alone keeps it): ")
        person.press("\n", "Output (Enter alone keeps it): Answer 2")
        person.press("\n", "row 4 of 4")
        person.press("r", "Why?")
        person.press("说得不对\n", "Nothing is left in this list")
        person.press("u", "row 4 of 4")
        person.press("\x1b[A", "row 3 of 4")
        person.press("?", "take your latest decision back")
        person.press("#", "# is no key here")
        assert person.end("q") == 0
        assert b"4 rows: 2 accepted, 1 rejected, 1 undecided, 0 in conflict." in person.seen
    log = find(tmp_path).log.read()
    assert [entry.verdict for entry in log] == ["accept", "reject", "edit", "reject", "undo"]
    assert {entry.author for entry in log} == {"李雷"}
    assert [entry.note for entry in log if isinstance(entry, Decision)] == ["", "wrong answer", "", "说得不对", ""]
    assert [row.instruction for row in gate(ROWS, log).accepted] == ["Name 0 animals", "Name 2 animals of the sea"]


def test_ctrl_c_ends_the_review_and_gives_the_terminal_back(tmp_path: Path) -> None:
    with at_terminal("review", to_review(tmp_path), "--tui") as person:
        person.wait("row 1 of 4")
        person.press("a", "row 2 of 4")
        assert person.end("\x03") == 130
    assert verdicts(tmp_path) == ["accept"]


def test_a_row_is_edited_in_the_reviewers_own_editor(tmp_path: Path) -> None:
    rows = [Row("Name two", "", "Answer\n-------- Output --------\nof two lines\n"), *ROWS]
    with at_terminal("review", to_review(tmp_path, rows), "--tui", EDITOR="sed -i s/Answer/Reply/") as person:
        person.wait("row 1 of 5")
        person.press("e", "row 2 of 5")
        assert person.end("q") == 0
    (entry,) = find(tmp_path).log.read()
    assert isinstance(entry, Decision)
    output = "Reply\n-------- Output --------\nof two lines"
    assert entry.edited == {"instruction": "Name two", "input": "", "output": output}


def test_an_editor_that_fails_decides_nothing_and_one_that_changes_nothing_accepts(tmp_path: Path) -> None:
    editor = tmp_path / "my editor"
    with at_terminal("review", to_review(tmp_path), "--tui", VISUAL=f"'{editor}'") as person:
        person.wait("row 1 of 4")
        for does, said in (
            (None, "No such file"),
            ("false", "ended with 1"),
            ('echo > "$1"', "the three texts are gone"),
            ('sed -i s/Answer.*// "$1"', "Output cannot be empty"),
            ("printf '\\377' > \"$1\"", "can't decode"),
            ("true", "row 2 of 4"),
        ):
            if does:
                editor.write_text(f"#!/bin/sh\n{does}\n")
                editor.chmod(0o755)
            assert verdicts(tmp_path) == []
            person.press("e", said)
        assert person.end("q") == 0
    assert verdicts(tmp_path) == ["accept"]


def test_what_a_model_wrote_does_not_drive_the_terminal(tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07 \x9b2J [red]markup[/red] \u202egnp.exe\r\x08"
    row = Row(f"Say {hostile}", hostile, hostile, nearest={"rouge_l": 0.6, "instruction": f"Tell {hostile}"},
              findings=(Finding("personal_data", False, {"text": hostile}),))  # fmt: skip
    to_review(tmp_path, [row])
    find(tmp_path).log.append(Decision(row.id, "Wu", "reject", note=hostile))
    with at_terminal("--lang", "zh", "review", tmp_path, "--tui") as person:
        person.wait("已经看完")
        person.press("k", "Wu 拒绝")
        assert person.end("q") == 0
    for obeyed in ("\x1b]0;", "\x07", "\x9b", "\u202e", "\x08"):
        assert obeyed.encode() not in person.seen, repr(obeyed)
    assert b"[red]markup[/red]" in person.seen


def piped(folder: Path, lines: str, *options: str) -> str:
    command = [sys.executable, "-m", "easyllm", "review", str(folder), "--tui", *options]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def test_lines_decide_too_where_no_terminal_is(tmp_path: Path) -> None:
    rows = [*ROWS, Row("写一首诗", "", "秋风", language="zh", nearest={"rouge_l": 0.61, "instruction": "写一首短诗"})]
    said = piped(
        to_review(tmp_path, rows),
        "f language=zh\na\nf colour=red\na\nf\n\nr too short\ne\n\n\nNew\no\nl\n",
        "--author",
        "Li",
    )
    assert "Most similar before (ROUGE-L 0.61)" in said
    assert "colour=red is no filter" in said
    assert said.count("Nothing is left in this list") == 2
    assert "Nobody else decided on this row otherwise than you." in said
    assert "Start with --sample" in said
    log = find(tmp_path).log.read()
    assert [entry.verdict for entry in log] == ["accept", "reject", "edit"]
    assert gate(rows, log).accepted[-1].instruction == "写一首诗"


def test_an_input_that_ends_at_a_question_decides_nothing(tmp_path: Path) -> None:
    assert "Nothing was decided." in piped(to_review(tmp_path), "e\nNew words\n")
    assert verdicts(tmp_path) == []


def test_a_row_that_was_made_anew_while_it_was_shown_is_not_decided_on(tmp_path: Path) -> None:
    with at_terminal("review", to_review(tmp_path), "--tui") as person:
        person.wait("row 1 of 4")
        to_review(tmp_path, [Row("Another", "", "row"), *ROWS[1:]])
        person.press("a", "made anew")
        person.wait("Another")
        person.press("a", "row 2 of 4")
        assert person.end("q") == 0
    assert [entry.row for entry in find(tmp_path).log.read() if isinstance(entry, Decision)] == [
        Row("Another", "", "row").id
    ]


def test_a_conflict_is_shown_and_ends_when_one_follows_the_other(tmp_path: Path) -> None:
    log = find(to_review(tmp_path)).log
    for author, verdict in (("Wu", "reject"), ("Li", "accept")):
        log.append(Decision(ROWS[2].id, author, verdict))  # type: ignore[arg-type]  # accept or reject
    said = piped(tmp_path, "f state=conflict\no\n", "--author", "Li")
    assert "the reviewers differ" in said
    assert "Wu rejected" in said
    assert [len(rows) for rows in (gate(ROWS, log.read()).conflicts, gate(ROWS, log.read()).rejected)] == [0, 1]


def test_a_sample_is_reviewed_and_the_lot_accepted_and_taken_back(tmp_path: Path) -> None:
    rows = [Row(f"Name {number} animals", "", "Answer") for number in range(30)]
    plan = ("--author", "Li", "--sample", "0.3", "--confidence", "0.8")
    early = piped(to_review(tmp_path, rows), "l\n", *plan)
    assert "rows of the sample wait for a decision" in early
    said = piped(tmp_path, "r cut\n" + "a\n" * 29, *plan)
    bounds = [float(percent) for percent in re.findall(r"at most ([\d.]+)% of all bad", said)]
    assert bounds[0] == 100
    assert bounds[1:] == sorted(bounds[1:], reverse=True)  # every row that is looked at says more
    assert bounds[-1] <= 30
    assert "The sample allows it: l accepts the" in said
    assert not gate(rows, find(tmp_path).log.read()).whole
    piped(tmp_path, "l\n", *plan)
    passed = gate(rows, find(tmp_path).log.read())
    assert (passed.whole, passed.how, passed.numbers["defects"], len(passed.rejected)) == (True, "lot", 1, 1)
    assert passed.numbers["by_lot"] > 5
    piped(tmp_path, "l\n", *plan)
    assert not gate(rows, find(tmp_path).log.read()).whole


def test_every_decision_that_was_answered_is_in_the_log_after_kill_9(tmp_path: Path) -> None:
    rows = [Row(f"Name {number} animals", "", "Answer") for number in range(300)]
    command = [sys.executable, "-m", "easyllm", "review", str(to_review(tmp_path, rows)), "--tui"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reviewer:
        assert reviewer.stdin
        assert reviewer.stdout
        reviewer.stdin.write("a\n" * 299)
        reviewer.stdin.flush()
        answered = 0
        for line in reviewer.stdout:
            if " of 300 decided" in line:
                answered = int(line.split()[0])
            if answered >= 30:
                reviewer.send_signal(signal.SIGKILL)
                break
    assert answered <= len(find(tmp_path).log.read()) < 299
    assert "of 300 decided" in piped(tmp_path, "a\n")
    assert len(find(tmp_path).log.read()) > answered
