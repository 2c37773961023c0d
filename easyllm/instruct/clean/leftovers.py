"""Answers that are no whole answer: empty, the question again, ended in the middle, or with pieces of the prompt."""

import regex

from easyllm.instruct.clean.patterns import pattern
from easyllm.instruct.row import Finding, Row

_COLON = regex.compile(r"[:：]\s*$")


def no_answer(row: Row) -> list[Finding]:
    """empty_output, output_is_input, output_is_instruction or ends_with_colon; at most one of them."""
    output = row.output.strip()
    if not output:
        return [Finding("empty_output", True)]
    # To the letter: where commas or capitals are to be set right, nothing else differs.
    if output.split() == row.input.split() and not row.is_classification:
        return [Finding("output_is_input", True)]
    if output.split() == row.instruction.split():
        return [Finding("output_is_instruction", True)]
    if _COLON.search(output):
        return [Finding("ends_with_colon", True, {"ends": output[-40:]})]
    return []


def leftovers(row: Row) -> list[Finding]:
    """template_leftover; blank_to_fill, which the reviewer is shown, for a letter may well have a [Your Name]."""
    output = row.output
    marks = (pattern("leftover", "anywhere").search(text) for text in (output, row.input, row.instruction))
    found = pattern("leftover", "begins").match(output) or next(filter(None, marks), None)
    if found:
        return [Finding("template_leftover", True, {"words": found[0].strip()})]
    if pattern("leftover", "asked").search(row.instruction):
        return []
    inserted = pattern("leftover", "to_fill").search(output)
    if inserted:
        return [Finding("template_leftover", True, {"words": inserted[0].strip()})]
    blank = pattern("leftover", "blank").search(output)
    return [Finding("blank_to_fill", False, {"words": blank[0].strip()})] if blank else []


def ended_early(row: Row, cut: bool) -> list[Finding]:
    """truncated: by the longest answer allowed. open_code_block: shown to the reviewer."""
    if cut:
        return [Finding("truncated", True, {"ends": row.output.strip()[-40:]})]
    fences = len(regex.findall(r"^\s*```", row.output, regex.MULTILINE))
    return [Finding("open_code_block", False, {"fences": fences})] if fences % 2 else []
