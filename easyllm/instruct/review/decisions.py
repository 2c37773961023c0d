"""What reviewers decided: a log that only grows, where each row stands by it, and whether all may be trained on.

A decision belongs to exactly the words of its row and to its author. Every reading goes through ``standings``, so a
row whose words were changed is undecided again, and two authors who differ are a conflict until one follows the other.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from easyllm.core.digest import of_value
from easyllm.instruct.review.log import Decision, Entry, Lot
from easyllm.instruct.review.sampling import choose, sample_needed
from easyllm.instruct.row import Row

UNDECIDED, ACCEPTED, REJECTED, CONFLICT = STATES = ("undecided", "accepted", "rejected", "conflict")


@dataclass(frozen=True)
class Standing:
    """Where one row stands."""

    state: str
    """undecided, accepted, rejected or conflict."""
    row: Row
    """As it would be trained on: with its edits, where it was accepted with edits."""
    source: Row
    """As it was made; decisions are on its ``id``."""
    by: dict[str, Decision] = field(default_factory=dict)
    """Each author's last decision; one that was undone is none."""
    lot: Lot | None = None
    """What accepted it, where no person decided on this very row."""

    @property
    def as_it_was(self) -> bool:
        """Whether a person accepted it without an edit."""
        return self.state == ACCEPTED and not self.lot and self.row.id == self.source.id


@dataclass(frozen=True)
class Gate:
    """All rows by where they stand, and how they came there."""

    accepted: list[Row]
    """With their edits: what may be trained on."""
    rejected: list[Row]
    undecided: list[Row]
    conflicts: list[Row]
    how: str
    """reviewed: a person decided on every row. lot: the rest was accepted by a sample. all: it was accepted unseen."""
    numbers: dict[str, Any]
    """{"rows", "accepted", "edited", "rejected", "by_lot", "by_all"}; with a lot {"sample", "defects", ...} too."""
    authors: list[str]
    """Who decided on a row or accepted a lot, in the order of their names."""

    @property
    def whole(self) -> bool:
        """Whether nothing is undecided or in conflict."""
        return not self.undecided and not self.conflicts

    def record(self) -> dict[str, Any]:
        """For the manifest: how the rows came through the gate, by whom, in numbers."""
        return {"how": self.how, "authors": self.authors, **self.numbers}


def set_digest(rows: Iterable[Row]) -> str:
    """Of which rows there are, whatever their order: what a Lot was said of."""
    return of_value(sorted(row.id for row in rows))


def standings(rows: Sequence[Row], entries: Iterable[Entry]) -> list[Standing]:
    """Where each of ``rows`` stands, in their order, after all ``entries``."""
    decided: dict[str, dict[str, Decision]] = defaultdict(dict)
    lots: dict[str, Lot] = {}
    for entry in entries:
        if isinstance(entry, Lot):
            lots[entry.author] = entry
        elif entry.verdict == "undo":
            decided[entry.row].pop(entry.author, None)
        else:
            decided[entry.row][entry.author] = entry
    alone = [_standing(row, decided.get(row.id, {})) for row in rows]
    known = (_as_it_stands(lot, alone) for lot in _of_these(rows, lots.values()))
    holding = next((lot for lot in known if lot), None)
    if holding is None:
        return alone
    return [replace(one, state=ACCEPTED, lot=holding) if one.state == UNDECIDED else one for one in alone]


def gate(rows: Sequence[Row], entries: Iterable[Entry]) -> Gate:
    """What may be trained on, and why; a stage goes on only when it is ``whole``."""
    found = standings(rows, entries)
    state = Counter(one.state for one in found)
    by_verdict = Counter(one.lot.verdict for one in found if one.lot)
    lot = next((one.lot for one in found if one.lot), None)
    numbers: dict[str, Any] = {
        "rows": len(found),
        "accepted": state[ACCEPTED],
        "edited": sum(one.state == ACCEPTED and one.row.id != one.source.id for one in found),
        "rejected": state[REJECTED],
        "by_lot": by_verdict["accept-lot"],
        "by_all": by_verdict["accept-all"],
    }
    authors = {author for one in found for author in one.by} | ({lot.author} if lot else set())
    return Gate(
        accepted=[one.row for one in found if one.state == ACCEPTED],
        rejected=[one.source for one in found if one.state == REJECTED],
        undecided=[one.source for one in found if one.state == UNDECIDED],
        conflicts=[one.source for one in found if one.state == CONFLICT],
        how="reviewed" if lot is None else lot.verdict.removeprefix("accept-"),
        numbers=numbers | (lot.numbers() if lot else {}),
        authors=sorted(authors),
    )


def _standing(row: Row, by: dict[str, Decision]) -> Standing:
    outcomes = {_words(row, decision) for decision in by.values()}
    if not outcomes:
        return Standing(UNDECIDED, row, row)
    if len(outcomes) > 1:
        return Standing(CONFLICT, row, row, by)
    words = outcomes.pop()
    if words is None:
        return Standing(REJECTED, row, row, by)
    edited = replace(row, instruction=words[0], input=words[1], output=words[2])
    if edited.id != row.id:  # what was found was found in other words
        edited = replace(edited, score=None, nearest=None, findings=())
    return Standing(ACCEPTED, edited, row, by)


def _words(row: Row, decision: Decision) -> tuple[str, str, str] | None:
    """What the decision lets through: the row's words, the edited ones, or nothing."""
    if decision.verdict == "reject":
        return None
    if decision.edited is None:
        return row.instruction, row.input, row.output
    return decision.edited["instruction"], decision.edited["input"], decision.edited["output"]


def _of_these(rows: Sequence[Row], lots: Iterable[Lot]) -> list[Lot]:
    """The lots that were said of exactly these rows; one with a sample behind it before one without."""
    if not (known := [lot for lot in lots if lot.verdict != "undo-lot"]):
        return []
    digest = set_digest(rows)
    return sorted((lot for lot in known if lot.rows == digest), key=lambda lot: lot.verdict == "accept-all")


def _as_it_stands(lot: Lot, alone: Sequence[Standing]) -> Lot | None:
    """The lot with the statistics that the log bears out now, whatever it says of itself; None where they are too weak.

    Its sample must be the one that chance chose, decided on whole, with no more defects than its size allows: a
    sampled row that was rejected after the lot was accepted takes the acceptance back.
    """
    if lot.verdict == "accept-all":
        return lot
    by_id = {one.source.id: one for one in alone}
    chosen = choose([one.source for one in alone], len(lot.sample))
    sample = [by_id[row.id] for row in chosen]
    if {row.id for row in chosen} != set(lot.sample) or any(one.state in (UNDECIDED, CONFLICT) for one in sample):
        return None
    defects = sum(not one.as_it_was for one in sample)
    if len(sample) < sample_needed(len(by_id), lot.error_rate, lot.confidence, defects):
        return None
    return replace(lot, defects=defects, of=len(by_id))
