"""Which rows are trained on and which are held out: decided by the words of a row, never by its place."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from easyllm.core.artifact import Decision
from easyllm.core.conversations import Conversation
from easyllm.core.digest import of_value
from easyllm.core.errors import refuse
from easyllm.core.messages import say


@dataclass(frozen=True)
class Split:
    """Rows in the order of their files; ``same`` counts rows whose words stand in an earlier row too."""

    train: list[Conversation]
    held_out: list[Conversation]
    same: int

    @property
    def decision(self) -> Decision:
        return Decision("held_out_rows", len(self.held_out), say("why_split"))


def split(rows: Sequence[Conversation], validation_rows: int, seed: int, files: Sequence[Path]) -> Split:
    """Hold out ``validation_rows`` different rows, with every copy of them.

    Raises UserError: DATA-006 no rows at all, DATA-005 nothing left to train on.
    """
    if not rows:
        file = files[0] if len(files) == 1 else None
        raise refuse("DATA-006", stage="finetune", key="finetune.data", file=file, role="data")
    digests = [row.digest for row in rows]
    different = sorted(set(digests), key=lambda digest: of_value([seed, digest]))
    if validation_rows >= len(different):
        raise refuse(
            "DATA-005",
            stage="finetune",
            key="finetune.validation_rows",
            asked=validation_rows,
            rows=len(different),
        )
    chosen = set(different[:validation_rows])
    train = [row for row, digest in zip(rows, digests, strict=True) if digest not in chosen]
    held_out = [row for row, digest in zip(rows, digests, strict=True) if digest in chosen]
    return Split(train, held_out, len(rows) - len(different))
