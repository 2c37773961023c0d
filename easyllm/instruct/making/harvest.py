"""Rows as they come in, in the order of asking: judged, kept or dropped, and counted."""

from collections import Counter
from dataclasses import replace

from easyllm.core.progress import Progress
from easyllm.instruct.ask import Answer
from easyllm.instruct.clean.cleaner import Cleaner
from easyllm.instruct.row import Finding, Row

EXCERPT_CHARACTERS = 500


class Harvest:
    """What has been kept and what dropped; the bar counts kept rows."""

    def __init__(self, cleaner: Cleaner, bar: Progress) -> None:
        self.rows: list[Row] = []
        self.dropped: list[Row] = []
        self._cleaner, self._bar = cleaner, bar
        self._instructions = 0

    def instruction(self, row: Row) -> bool:
        """Whether the instruction of ``row``, which has no answer yet, is worth asking for one. It is kept if so."""
        judged = self._judged(row)
        if judged.dropped:
            self._drop(judged)
            return False
        self._cleaner.keep(row.instruction)
        self._instructions += 1
        self._bar.advance(0, instructions=self._instructions)
        return True

    def whole(self, row: Row, answer: Answer) -> bool:
        """Judge instruction and answer together: rows that come in one piece."""
        judged = self._judged(row)
        if not judged.dropped:
            judged = self._answered(judged, answer)
        if judged.dropped:
            self._drop(judged)
            return False
        self._cleaner.keep(row.instruction)
        self._keep(judged)
        return True

    def answered(self, row: Row, answer: Answer) -> bool:
        """Judge the answer to an instruction that was found good before, or that is a person's own."""
        judged = self._answered(row, answer)
        if judged.dropped:
            self._drop(judged)
            return False
        self._keep(judged)
        return True

    def unread(self, answer: Answer, row: Row) -> None:
        """An answer in no form that could be read, twice."""
        text = answer.text[:EXCERPT_CHARACTERS]
        self._drop(row.found(Finding("unreadable", True, {"text": text, "finish_reason": answer.finish_reason})))

    def scored(self, count: int) -> None:
        """Show that the teacher has looked at so many rows of those that wait for their score."""
        self._bar.advance(0, scored=count)

    def rated(self, scores: dict[str, int | None], least: int) -> None:
        """Put the teacher's ``scores`` (by row id; None: it gave none) on kept rows, and drop those below ``least``."""
        before, self.rows = self.rows, []
        for row in before:
            if row.id not in scores:
                self.rows.append(row)
                continue
            score = scores[row.id]
            rated = replace(row, score=score)
            if score is None:
                self.rows.append(rated.found(Finding("no_score", False)))
            elif score >= least:
                self.rows.append(rated)
            else:
                self._drop(rated.found(Finding("low_score", True, {"score": score, "least": least})))
        self._bar.advance(len(self.rows) - len(before))

    def reasons(self) -> dict[str, int]:
        """How often each reason dropped a row, the most frequent first."""
        counts = Counter(found.reason for row in self.dropped for found in row.findings if found.drops)
        return dict(counts.most_common())

    def _judged(self, row: Row) -> Row:
        findings = self._cleaner.instruction(row.instruction)
        return replace(row, nearest=self._cleaner.nearest(row.instruction)).found(*findings)

    def _answered(self, row: Row, answer: Answer) -> Row:
        return row.found(*self._cleaner.answer(row, answer.cut))

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        self._bar.advance(1, dropped=len(self.dropped))

    def _drop(self, row: Row) -> None:
        self.dropped.append(row)
        self._bar.advance(0, dropped=len(self.dropped))
