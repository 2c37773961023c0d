"""The base of every typed recipe section. The docstring under a field is its help text everywhere."""

from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

T = TypeVar("T")


def distinct(values: list[T]) -> list[T]:
    """For a field in which a name twice would be the same work twice."""
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        raise PydanticCustomError("given_twice", "{value} is given twice", {"value": str(twice[0])})
    return values


class Section(BaseModel):
    """Immutable, refuses unknown keys; help, JSON schema and reference come from the same lines."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    HOW: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how the work is done and not what comes out: a cut stage goes on when they change."""
