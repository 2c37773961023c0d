"""One row to train on, whichever form it was read in."""

from dataclasses import dataclass, field
from pathlib import Path

from easyllm.core.conversations import Message, messages_of_task
from easyllm.instruct.row import Row

SEED_KEYS = frozenset({"id", "name", "is_classification"})
"""What a Self-Instruct row says beside its words."""


@dataclass(frozen=True)
class Example:
    """A conversation, and the three texts of a task where its form keeps them apart."""

    messages: tuple[Message, ...]
    """The last is an assistant's."""
    task: tuple[str, str, str] | None = None
    """Instruction, input and output; None where the form knows messages alone."""
    id: str = ""
    name: str = ""
    is_classification: bool | None = None
    extra: frozenset[str] = frozenset()
    """Keys of the row beside its words, as it was read: a form may have no place for them."""
    file: Path | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)

    @property
    def instruction(self) -> str:
        """What two rows share that must stand on one side of a split: the first thing that is asked."""
        if self.task:
            return self.task[0]
        return next((m["content"] for m in self.messages if m["role"] == "user"), "")

    def as_task(self) -> tuple[str, str, str] | None:
        """Instruction, input and output; None where one question and one answer are not all that is said."""
        if self.task:
            return self.task
        if [m["role"] for m in self.messages] != ["user", "assistant"] or not self.messages[0]["content"].strip():
            return None
        return self.messages[0]["content"], "", self.messages[1]["content"]


def example_of(row: Row) -> Example:
    """The example that a row of the stage is."""
    task = (row.instruction, row.input, row.output)
    return Example(tuple(messages_of_task(*task)), task, is_classification=row.is_classification)
