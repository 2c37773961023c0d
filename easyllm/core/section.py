"""The base of every typed recipe section. The docstring under a field is its help text everywhere."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Immutable, refuses unknown keys; help, JSON schema and reference come from the same lines."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    HOW: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how the work is done and not what comes out: a cut stage goes on when they change."""
