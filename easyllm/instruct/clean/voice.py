"""Answers in which the teacher speaks of itself, or refuses."""

from easyllm.instruct.clean.patterns import pattern
from easyllm.instruct.row import Finding, Row


def teacher_speaks(row: Row) -> list[Finding]:
    """teacher_reference: "As an AI language model, I ...", where the row is not about such a thing."""
    found = pattern("teacher", "self").search(row.output)
    asked = f"{row.instruction}\n{row.input}"
    if not found:
        return []
    return [Finding("teacher_reference", not pattern("teacher", "asked").search(asked), {"words": found[0].strip()})]


def refusal(row: Row) -> list[Finding]:
    """refusal: the answer begins with one, and the instruction asked for no letter or talk in which one may stand."""
    found = pattern("refusal", "begins").match(row.output)
    if not found:
        return []
    return [Finding("refusal", not pattern("refusal", "asked").search(row.instruction), {"words": found[0].strip()})]
