"""What pydantic says of a recipe, in the words of our catalogue and at the keys of the user's own file."""

from dataclasses import dataclass
from typing import Any

from easyllm.core.messages import say

Keys = tuple[str | int, ...]
MISSING, UNKNOWN = "missing", "extra_forbidden"

WANTED = {
    "bool_parsing": "wanted_bool", "bool_type": "wanted_bool",
    "int_parsing": "wanted_int", "int_type": "wanted_int", "int_from_float": "wanted_int",
    "float_parsing": "wanted_float", "float_type": "wanted_float", "finite_number": "wanted_finite",
    "greater_than": "wanted_above", "greater_than_equal": "wanted_at_least",
    "less_than": "wanted_below", "less_than_equal": "wanted_at_most",
    "string_type": "wanted_text", "string_too_short": "wanted_longer_text", "string_pattern_mismatch": "wanted_pattern",
    "list_type": "wanted_list", "tuple_type": "wanted_list",
    "too_short": "wanted_longer_list", "too_long": "wanted_shorter_list",
    "dict_type": "wanted_mapping", "model_type": "wanted_mapping", "invalid_key": "wanted_text_key",
    "literal_error": "wanted_one_of",
}  # fmt: skip
"""pydantic's kinds of error, and the text that names what it wanted; a test tries every field with odd values."""


@dataclass(frozen=True)
class Complaint:
    """What is wrong at ``keys``: a key that is MISSING or UNKNOWN, or a ``value`` and what is said of it."""

    keys: Keys
    kind: str
    value: Any
    detail: str


def complaints(entries: list[Any], data: dict[str, Any]) -> list[Complaint]:
    """One complaint for each place of ``data`` that ``entries``, pydantic's list of errors, speak of.

    Where a value may be of several kinds, pydantic complains once for each of them.
    """
    at: dict[Keys, list[Any]] = {}
    for entry in entries:
        at.setdefault(_keys_in(data, entry), []).append(entry)
    # A mapping in which a key is wrong is told to be no text too; what is wrong inside says more.
    outer = {keys[:end] for keys in at for end in range(len(keys))}
    return [_of(keys, found) for keys, found in at.items() if keys not in outer]


def _keys_in(data: Any, entry: Any) -> Keys:
    """The place of ``entry`` without what pydantic puts between its keys: "bool", "list[str]", a section's name."""
    keys: list[str | int] = []
    for part in entry["loc"]:
        if (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        ):
            keys.append(part)
            data = data[part]
    return (*keys, entry["loc"][-1]) if entry["type"] == MISSING else tuple(keys)


def _of(keys: Keys, entries: list[Any]) -> Complaint:
    first = entries[0]
    if first["type"] in (MISSING, UNKNOWN):
        return Complaint(keys, first["type"], None, "")
    kinds = list(dict.fromkeys(_wanted(entry) for entry in entries if entry["type"] in WANTED))
    others = [_other(entry) for entry in entries if entry["type"] not in WANTED]
    detail = say("wanted", kinds=say("wanted_or").join(kinds)) if kinds else "; ".join(others)
    return Complaint(keys, first["type"], first["input"], detail)


def _wanted(entry: Any) -> str:
    told = entry.get("ctx", {})
    if entry["type"] == "literal_error":
        expected = str(told["expected"]).replace(" or ", ", ")
        return say("wanted_one_of", expected=expected) if "," in expected else expected
    numbers = {key: f"{value:g}" if isinstance(value, float) else value for key, value in told.items()}
    return say(WANTED[entry["type"]], **numbers)


def _other(entry: Any) -> str:
    """What a check of our own says; its name is the text's."""
    return say(entry["type"], **entry.get("ctx", {}))
