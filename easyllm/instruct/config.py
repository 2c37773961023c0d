"""What a recipe may ask of instruct. The stage is not built yet: its contract stands, and it refuses."""

from pydantic import Field

from easyllm.core.section import Section


class Teacher(Section):
    """An OpenAI-compatible endpoint; its key comes from the environment only."""

    base_url: str
    """Address of the endpoint, ending in /v1."""
    model: str
    """Model name to ask for."""
    key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""


class InstructConfig(Section):
    """Seed tasks to reviewed instruction rows, by Self-Instruct. NOT BUILT YET: a recipe with it is refused."""

    teacher: Teacher
    """Who writes the rows."""
    seeds: str
    """Seed tasks: builtin:en, builtin:zh or a JSONL file in the Self-Instruct format."""
    count: int = Field(default=100, gt=0)
    """Rows to end with, after cleaning."""
