"""Who decided what, and what may be trained on by it."""

from dataclasses import replace

import pytest

from easyllm.instruct.review.decisions import gate, set_digest, standings
from easyllm.instruct.review.log import Decision, Lot
from easyllm.instruct.review.sampling import choose, sampling
from easyllm.instruct.row import Finding, Row

ROWS = [Row(f"Name {number} animals", "", f"Answer {number}", score=4) for number in range(40)]
FIRST = ROWS[0]


def accept(row: Row, author: str = "Li") -> Decision:
    return Decision(row.id, author, "accept")


def reject(row: Row, author: str = "Li") -> Decision:
    return Decision(row.id, author, "reject", note="wrong answer")


def edit(row: Row, output: str, author: str = "Li") -> Decision:
    return Decision(row.id, author, "edit", {"instruction": row.instruction, "input": row.input, "output": output})


def states(rows: list[Row], *entries: Decision | Lot) -> list[str]:
    return [one.state for one in standings(rows, entries)]


def by_sample(rows: list[Row], rejected: int = 0, error_rate: float = 0.2) -> tuple[list[Decision | Lot], Lot]:
    """Decisions on the sample that the plan asks for, the first of it rejected; and the lot that stands on them."""
    entries: list[Decision | Lot] = []
    while (plan := sampling(standings(rows, entries), error_rate, 0.9)).left:
        row = next(row for row in rows if row.id == plan.left[0])
        entries.append(reject(row) if len(entries) < rejected else accept(row))
    lot = Lot("accept-lot", "Li", set_digest(rows), plan.sample, plan.defects, plan.of, error_rate, 0.9)
    return [*entries, lot], lot


def test_rows_nobody_decided_on_are_undecided_and_hold_the_gate() -> None:
    found = gate(ROWS, [accept(FIRST)])
    assert (len(found.accepted), len(found.undecided), found.whole) == (1, 39, False)


def test_my_last_decision_counts_and_undo_takes_it_back() -> None:
    assert states([FIRST], accept(FIRST), reject(FIRST)) == ["rejected"]
    assert states([FIRST], accept(FIRST), reject(FIRST), Decision(FIRST.id, "Li", "undo")) == ["undecided"]
    assert states([FIRST], accept(FIRST, "Wu"), accept(FIRST), Decision(FIRST.id, "Li", "undo")) == ["accepted"]


def test_a_row_whose_words_were_changed_loses_its_decision() -> None:
    changed = replace(FIRST, output="Another answer")
    assert states([changed], accept(FIRST)) == ["undecided"]
    scored = replace(FIRST, score=1)  # what others found about the same words changes no decision on them
    assert states([scored], accept(FIRST)) == ["accepted"]


def test_two_reviewers_who_differ_are_a_conflict_until_one_follows_the_other() -> None:
    differ = [accept(FIRST, "Li"), reject(FIRST, "Wu")]
    assert states([FIRST], *differ) == ["conflict"]
    assert not gate([FIRST], differ).whole
    assert states([FIRST], *differ, reject(FIRST, "Li")) == ["rejected"]
    assert states([FIRST], *differ, Decision(FIRST.id, "Wu", "undo")) == ["accepted"]


def test_two_edits_that_differ_are_a_conflict_and_equal_ones_are_none() -> None:
    assert states([FIRST], edit(FIRST, "A"), edit(FIRST, "B", "Wu")) == ["conflict"]
    assert states([FIRST], edit(FIRST, "A"), accept(FIRST, "Wu")) == ["conflict"]
    assert states([FIRST], edit(FIRST, "A"), edit(FIRST, "A", "Wu")) == ["accepted"]


def test_an_edited_row_is_trained_on_with_its_edits_and_without_what_was_found_in_other_words() -> None:
    row = FIRST.found(Finding("personal_data", drops=False))
    found = gate([row], [edit(row, "The edited answer")])
    (accepted,) = found.accepted
    assert (accepted.output, accepted.findings, accepted.score) == ("The edited answer", (), None)
    assert found.record()["edited"] == 1


def test_rejected_rows_never_come_through_the_gate() -> None:
    lot = Lot("accept-all", "Li", set_digest(ROWS), i_know=True)
    found = gate(ROWS, [reject(FIRST), accept(ROWS[1]), reject(ROWS[1], "Wu"), lot])
    assert {FIRST.id, ROWS[1].id}.isdisjoint(row.id for row in found.accepted)
    assert (len(found.accepted), found.rejected, found.conflicts, found.whole) == (38, [FIRST], [ROWS[1]], False)


def test_all_accepted_unseen_is_recorded_as_such_with_the_author() -> None:
    found = gate(ROWS, [reject(FIRST, "Wu"), Lot("accept-all", "Li", set_digest(ROWS), i_know=True)])
    assert found.whole
    assert found.record() == {
        "how": "all", "authors": ["Li", "Wu"], "rows": 40, "accepted": 39, "edited": 0, "rejected": 1,
        "by_lot": 0, "by_all": 39,
    }  # fmt: skip


def test_a_lot_is_accepted_by_its_sample_with_the_statistics_recorded() -> None:
    entries, lot = by_sample(ROWS, rejected=1)
    found = gate(ROWS, entries)
    assert (found.whole, found.how, len(found.rejected)) == (True, "lot", 1)
    assert found.record() | {"sample": len(lot.sample), "defects": 1, "error_rate": 0.2} == found.record()
    assert found.numbers["by_lot"] == 40 - len(lot.sample)


def test_the_manifest_keeps_the_statistics_of_the_log_and_not_those_a_lot_claims() -> None:
    entries, lot = by_sample(ROWS, rejected=1)
    found = gate(ROWS, [*entries[:-1], replace(lot, defects=0, of=7)])
    assert (found.numbers["defects"], found.numbers["of"]) == (1, 40)


def test_a_lot_is_void_when_the_rows_change() -> None:
    entries, _ = by_sample(ROWS)
    assert gate(ROWS, entries).whole
    assert gate(ROWS[::-1], entries).whole  # the order is not the rows
    unseen = next(row for row in ROWS if row.id not in {entry.row for entry in entries if isinstance(entry, Decision)})
    changed = [replace(row, output="Other") if row is unseen else row for row in ROWS]
    assert not gate(changed, entries).whole
    assert not gate([*ROWS, Row("One more", "", "row")], entries).whole


def test_a_sampled_row_that_is_rejected_later_takes_the_lot_back() -> None:
    entries, lot = by_sample(ROWS)
    sampled = next(row for row in ROWS if row.id == lot.sample[0])
    assert not gate(ROWS, [*entries, reject(sampled)]).whole
    assert not gate(ROWS, [*entries, Decision(sampled.id, "Li", "undo")]).whole


@pytest.mark.parametrize("forged", ["too few", "not by chance", "nobody looked"])
def test_a_lot_that_its_sample_does_not_bear_out_accepts_nothing(forged: str) -> None:
    entries, lot = by_sample(ROWS)
    if forged == "too few":
        entries[-1] = replace(lot, sample=lot.sample[:-1])
    elif forged == "not by chance":
        last = choose(ROWS, 40)[-len(lot.sample) :]
        entries = [*map(accept, last), replace(lot, sample=tuple(row.id for row in last))]
    else:
        entries = [lot]
    assert not gate(ROWS, entries).whole


def test_the_acceptance_of_a_lot_can_be_taken_back() -> None:
    entries, _ = by_sample(ROWS)
    assert not gate(ROWS, [*entries, Lot("undo-lot", "Li", set_digest(ROWS))]).whole
    assert gate(ROWS, [*entries, Lot("undo-lot", "Wu", set_digest(ROWS))]).whole


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict": "edit"},
        {"verdict": "accept", "edited": {"instruction": "a", "input": "", "output": "b"}},
        {"verdict": "edit", "edited": {"instruction": "a", "input": "", "output": " "}},
        {"verdict": "edit", "edited": {"instruction": "a", "output": "b"}},
    ],
)
def test_half_an_edit_is_no_decision(wrong: dict) -> None:
    with pytest.raises(ValueError, match="edited"):
        Decision("row", "Li", **wrong)
