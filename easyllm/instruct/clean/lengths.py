"""Texts that are too short or too long."""

from easyllm.instruct.clean.tokens import units_of
from easyllm.instruct.row import Finding

REASONS = {
    "instruction": ("instruction_too_short", "instruction_too_long"),
    "output": ("output_too_short", "output_too_long"),
}


def length(text: str, limits: tuple[int, int], which: str) -> list[Finding]:
    """What is wrong with the length of ``which`` text, in words and characters as ``units_of`` counts."""
    units, (least, most) = units_of(text), limits
    if least <= units <= most:
        return []
    too_short, too_long = REASONS[which]
    reason = too_short if units < least else too_long
    return [Finding(reason, True, {"units": units, "least": least, "most": most})]
