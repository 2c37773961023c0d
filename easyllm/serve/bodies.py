"""What clients may send: a field is honoured, or accepted at its neutral value only; nothing is ignored."""

import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from easyllm.serve.refusals import invalid

MOST_STOPS = 4
Neutral = Literal[False] | None
Stop = Annotated[str, Field(min_length=1)]
RANGES = ("greater_than", "less_than", "too_long", "too_short", "string_too_short")
"""How the names of pydantic's errors about a value out of range begin."""

NAME = re.compile(r"(?!(?:str|int|float|bool|dict)$)(?:[a-z_][a-z0-9_]*|-?[0-9]+)")
"""A field, key or place in the path of pydantic's errors, which also has the kinds that a value might have been of."""


class Body(BaseModel):
    """Unknown fields are refused; an explicit null means the same as leaving the field out."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, protected_namespaces=(), allow_inf_nan=False,
        use_attribute_docstrings=True,
    )  # fmt: skip
    texts: ClassVar[dict[str, str]] = {}
    """What to say of a field whose value is out of range, where a dialect has words of its own."""


B = TypeVar("B", bound=Body)


def read(text: bytes, kind: type[B]) -> B:
    """The body as ``kind``, or a refusal that names the field and what it may be."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(part for part in map(str, first["loc"]) if NAME.fullmatch(part)) or None
        raise invalid(_in_its_words(first, kind) or _explain(first, param), param) from error


def _in_its_words(entry: Any, kind: type[Body]) -> str | None:
    name = entry["loc"][-1] if entry["loc"] else None  # of the field itself, and not of one of its entries
    if name not in kind.texts or not entry["type"].startswith(RANGES):
        return None
    given = entry["input"]
    return kind.texts[name].format(given=len(given) if isinstance(given, list) else given)


def _explain(entry: Any, param: str | None) -> str:
    if entry["type"] == "json_invalid":
        return f"the body is not valid JSON: {entry['ctx']['error']}"
    if entry["type"] == "extra_forbidden":
        return f"`{param}` is not supported by this server"
    if entry["type"] == "missing":
        return f"`{param}` is missing"
    name = f"`{param}`" if param else "the body"
    return f"{name} cannot be {_short(entry['input'])} on this server: {entry['msg'][:1].lower()}{entry['msg'][1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
