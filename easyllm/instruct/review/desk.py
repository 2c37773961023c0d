"""The rows on a reviewer's desk: where each stands by the log, whoever writes to it, and what he adds to it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from threading import RLock
from typing import Any, Concatenate, ParamSpec, TypeVar

from easyllm.instruct.review.decisions import STATES, UNDECIDED, Standing, set_digest, standings
from easyllm.instruct.review.folder import Folder
from easyllm.instruct.review.log import Decision, Entry, Log, Lot, line_of
from easyllm.instruct.review.sampling import Sampling, sampling

P = ParamSpec("P")
R = TypeVar("R")


class Unknown(Exception):
    """The row is not, or no longer, among those on the desk."""


class TooEarly(Exception):
    """The sample does not yet allow to accept the rest."""


def up_to_date(
    method: "Callable[Concatenate[Desk, P], R]",
) -> "Callable[Concatenate[Desk, P], R]":
    """One caller at a time, after all that others have written."""

    def locked(desk: "Desk", /, *args: P.args, **named: P.kwargs) -> R:
        with desk.lock:
            desk.refresh()
            return method(desk, *args, **named)

    return locked


class Desk:
    """One folder as ``author`` sees it. Rows have numbers, from 0, in the order of their file."""

    def __init__(self, folder: Folder, author: str) -> None:
        self.folder, self.author = folder, author
        self.lock = RLock()
        self.log = Log(folder.log_file)
        self.revision = 0
        """Grows with every change, so that a page can ask for what is new."""
        self.found: list[Standing] = []
        self._changed: list[int] = []
        self._entries: list[Entry] = []
        self._numbers: dict[str, list[int]] = {}
        """Of a row's id; equal rows share one, and every decision."""
        self._of_row: dict[str, list[Decision]] = {}
        self._lots = False
        self._seen_rows: tuple[int, int] = (-1, -1)
        self._seen_log: tuple[int, int] = (-1, -1)
        self.refresh()

    def refresh(self) -> None:
        """Read again what has changed on the disk: the rows (made anew), the log (another reviewer)."""
        seen = Log(self.folder.rows_file).mark()  # of any file: its size and time
        if seen != self._seen_rows:
            rows = self.folder.rows()
            self._seen_rows = seen
            self.digest = set_digest(rows)
            self._numbers = defaultdict(list)
            for number, row in enumerate(rows):
                self._numbers[row.id].append(number)
            self.found = [Standing(UNDECIDED, row, row) for row in rows]
            self.revision += 1
            self._changed = [self.revision] * len(rows)
            self._seen_log = (-1, -1)
        mark = self.log.mark()
        if mark != self._seen_log:
            self._read_log()
            self._seen_log = mark

    def _read_log(self) -> None:
        self._entries = self.log.read()
        self._of_row = defaultdict(list)
        self._lots = False
        for entry in self._entries:
            if isinstance(entry, Lot):
                self._lots = True
            else:
                self._of_row[entry.row].append(entry)
        self._take(dict(enumerate(standings([one.source for one in self.found], self._entries))))

    def _take(self, news: dict[int, Standing]) -> None:
        self.revision += 1
        for number, standing in news.items():
            if standing != self.found[number]:
                self.found[number] = standing
                self._changed[number] = self.revision

    @up_to_date
    def decide(self, decision: Decision) -> int:
        """Add the decision to the log; the number of its row. Raises Unknown."""
        if decision.row not in self._numbers:
            raise Unknown(decision.row)
        self._append(decision)
        return self._numbers[decision.row][0]

    @up_to_date
    def take_back(self) -> int | None:
        """Undo the author's latest decision that still stands; the number of its row, None where there is none."""
        passed: set[str] = set()
        for entry in reversed(self._entries):
            if isinstance(entry, Lot) or entry.author != self.author or entry.row in passed:
                continue
            passed.add(entry.row)
            if entry.verdict != "undo" and entry.row in self._numbers:
                self._append(Decision(entry.row, self.author, "undo"))
                return self._numbers[entry.row][0]
        return None

    @up_to_date
    def accept_lot(self, error_rate: float, confidence: float) -> None:
        """Accept what is undecided, by the sample. Raises TooEarly where the statistics do not allow it."""
        plan = sampling(self.found, error_rate, confidence)
        if not plan.acceptable:
            raise TooEarly
        self._append(
            Lot(
                "accept-lot", self.author, self.digest, plan.sample, plan.defects, plan.of, error_rate, confidence
            )
        )  # fmt: skip

    @up_to_date
    def undo_lot(self) -> None:
        """Take the author's acceptance of the lot back."""
        self._append(Lot("undo-lot", self.author, self.digest))

    @up_to_date
    def plan(self, error_rate: float, confidence: float) -> Sampling:
        return sampling(self.found, error_rate, confidence)

    def numbers_of(self, ids: Iterable[str]) -> list[int]:
        """Of the first row of each id."""
        return [self._numbers[key][0] for key in ids]

    @up_to_date
    def standing(self, since: int) -> dict[str, Any]:
        """How far the review is, and the numbers of the rows that changed after revision ``since``."""
        states = Counter(one.state for one in self.found)
        lot = next((one.lot for one in self.found if one.lot), None)
        return {
            "revision": self.revision,
            "digest": self.digest,
            "changed": [number for number, changed in enumerate(self._changed) if changed > since],
            "counts": {state: states[state] for state in STATES},
            "authors": dict(Counter(author for one in self.found for author in one.by)),
            "lot": lot and {"author": lot.author, "verdict": lot.verdict, **lot.numbers()},
        }

    def _append(self, entry: Entry) -> None:
        """Write it. Where nobody else wrote meanwhile and no lot stands, one row is all that has to be looked at."""
        before, known = self.log.mark(), self._seen_log
        written = self.log.append(entry)
        after = self.log.mark()
        if before != known or self._lots or isinstance(written, Lot) or after[0] - before[0] != len(line_of(written)):
            self.refresh()
            return
        self._entries.append(written)
        self._of_row[written.row].append(written)
        numbers = self._numbers[written.row]
        self._take(dict.fromkeys(numbers, standings([self.found[numbers[0]].source], self._of_row[written.row])[0]))
        self._seen_log = after
