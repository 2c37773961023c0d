"""The base of every typed recipe section. The docstring under a field is its help text everywhere."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Immutable, refuses unknown keys; help, JSON schema and reference come from the same lines."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())
