"""All filters over one row, and what later rows are compared with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easyllm.instruct.clean.contamination import Contamination
from easyllm.instruct.clean.fragments import fragment
from easyllm.instruct.clean.language import output_language, wrong_language
from easyllm.instruct.clean.leftovers import ended_early, leftovers, no_answer
from easyllm.instruct.clean.lengths import length
from easyllm.instruct.clean.personal import personal_data
from easyllm.instruct.clean.similar import Similar
from easyllm.instruct.clean.tokens import same_key
from easyllm.instruct.clean.topics import Forbidden, unservable
from easyllm.instruct.clean.voice import refusal, teacher_speaks
from easyllm.instruct.config import Clean
from easyllm.instruct.row import Finding, Row


class Cleaner:
    """Judges rows one after the other, each against the ``seeds`` (text, language) and all that was kept before it.

    The same rows in the same order are judged the same way. Raises UserError as ``Contamination`` does.
    """

    def __init__(
        self, config: Clean, seeds: Sequence[tuple[str, str]], evaluation: Sequence[Path], stage: str = "instruct"
    ) -> None:
        self._config = config
        self._languages = set(config.languages or (language for _, language in seeds))
        self._forbidden = Forbidden(config.forbid)
        self._evaluation = Contamination(evaluation, config.contamination_tokens, stage)
        self._similar = Similar(config.minhash_above)
        self._outputs: dict[tuple[str, str], str] = {}
        for text, _ in seeds:
            self._similar.keep(text)

    def instruction(self, text: str) -> list[Finding]:
        """What is wrong with an instruction alone, before money is spent on its answer."""
        found = fragment(text)
        if found:
            return found  # the rest would find faults of what is no instruction
        found += length(text, self._config.instruction_units, "instruction")
        found += [*unservable(text), *self._forbidden.find(text), *wrong_language(text, self._languages)]
        found += self._evaluation.find(Row(text, "", ""))
        return found or self._duplicate(text)

    def answer(self, row: Row, cut: bool) -> list[Finding]:
        """What is wrong with a row whose instruction was found good. ``cut``: its answer reached the longest allowed.

        A row that nothing drops is remembered: its input has no second answer.
        """
        found = no_answer(row)
        if not found:
            found = length(row.output, self._config.output_units, "output")
            found += [*leftovers(row), *teacher_speaks(row), *refusal(row), *output_language(row)]
            found += [*self._evaluation.find(row), *self._second(row)]
        found += ended_early(row, cut)
        if self._config.personal_data != "keep":
            found += personal_data(row, drops=self._config.personal_data == "drop")
        if not any(finding.drops for finding in found):
            self._outputs.setdefault(_question(row), row.output)
        return found

    def nearest(self, text: str) -> dict[str, Any] | None:
        """{"rouge_l", "instruction"} of the most similar seed or kept instruction; None: no word is shared."""
        found = self._similar.nearest(text)
        return found.as_json() if found else None

    def keep(self, text: str) -> None:
        """Later instructions are compared with ``text`` too."""
        self._similar.keep(text)

    def _duplicate(self, text: str) -> list[Finding]:
        same = self._similar.same(text)
        if same is not None:
            return [Finding("exact_duplicate", True, {"other": same})]
        found = self._similar.nearest(text)
        if found is None or found.rouge_l <= self._config.similarity:
            return []
        return [Finding("near_duplicate", True, {"rouge_l": round(found.rouge_l, 4), "other": found.instruction})]

    def _second(self, row: Row) -> list[Finding]:
        """second_answer: the same instruction and input stand before with another answer; repeated_row: the same."""
        first = self._outputs.get(_question(row))
        if first is None:
            return []
        if first.split() == row.output.split():
            return [Finding("repeated_row", True)]
        return [Finding("second_answer", True, {"other": first})]


def _question(row: Row) -> tuple[str, str]:
    """An input is itself to the letter: 3 and 3.0 are two."""
    return same_key(row.instruction), " ".join(row.input.split())
