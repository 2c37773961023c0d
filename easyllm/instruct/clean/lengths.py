"""Texts that are too short or too long."""

from easyllm.instruct.clean.tokens import units_of
from easyllm.instruct.row import Finding


def length(text: str, limits: tuple[int, int], which: str) -> list[Finding]:
    """``which``_too_short or ``which``_too_long, with the length in words and characters as ``units_of`` counts."""
    units, (least, most) = units_of(text), limits
    if least <= units <= most:
        return []
    reason = f"{which}_too_short" if units < least else f"{which}_too_long"
    return [Finding(reason, True, {"units": units, "least": least, "most": most})]
