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

    def instruction(self, row: Row) -> bool:
        """Whether the instruction of ``row``, which has no answer yet, is worth asking for one. It is kept if so."""
        judged = self._judged(row)
        if judged.dropped:
            self._drop(judged)
            return False
        self._cleaner.keep(row.instruction)
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

    def rated(self, row: Row, score: int | None, least: int) -> None:
        """Put the teacher's score on a kept row, and drop it where that is too low. None: it gave none."""
        place = self.rows.index(row)
        if score is None:
            self.rows[place] = row.found(Finding("no_score", False))
        elif score >= least:
            self.rows[place] = replace(row, score=score)
        else:
            del self.rows[place]
            self._drop(replace(row, score=score).found(Finding("low_score", True, {"score": score, "least": least})))
            self._bar.advance(-1)

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
