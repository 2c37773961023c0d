"""A filter as a reviewer types it in the terminal: ``state=conflict score=..3 length=400.. words to search for``."""

from typing import Any

from easyllm.core.messages import say
from easyllm.core.printable import printable
from easyllm.instruct.review.sift import Wanted

NAMES = ("reason", "language", "origin")
RANGES = ("score", "length")


class WrongFilter(Exception):
    """A part of it cannot be meant; the text says which and what can."""


def wanted_of(typed: str) -> Wanted | None:
    """The filter, or None where nothing was typed. Raises WrongFilter."""
    asked: dict[str, Any] = {}
    words = []
    for part in typed.split():
        name, sign, value = part.partition("=")
        if not sign:
            words.append(part)
        elif name in NAMES or (name == "state" and value in Wanted.ALL):
            asked[name] = value
        elif name in RANGES:
            asked |= _range(name, value, part)
        else:
            raise _wrong(part)
    return Wanted(**asked, search=" ".join(words)) if asked or words else None


def _range(name: str, value: str, part: str) -> dict[str, int]:
    """3..5 from three to five, ..3 at most, 3.. at least, 3 exactly."""
    least, dots, most = value.partition("..")
    most = most if dots else least
    if not (least or most) or not all(bound.isdecimal() or not bound for bound in (least, most)):
        raise _wrong(part)
    return {f"{side}_{name}": int(bound) for side, bound in (("least", least), ("most", most)) if bound}


def _wrong(part: str) -> WrongFilter:
    known = f"state={'|'.join(Wanted.ALL)} reason= language= origin= score=A..B length=A..B"
    return WrongFilter(say("tui_filter_wrong", part=printable(part), known=known))
