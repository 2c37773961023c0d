"""One instruction row on its way from the teacher to training, and what was found about it."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from easyllm.core.digest import of_value


@dataclass(frozen=True)
class Finding:
    """One thing that a filter found."""

    reason: str
    """Its English name, such as ``near_duplicate``; ``term`` knows it in every language."""
    drops: bool
    """Whether the row goes; otherwise the reviewer is shown it."""
    detail: dict[str, Any] = field(default_factory=dict)
    """The numbers and texts behind it: {"rouge_l": 0.83, "other": the other instruction}."""


@dataclass(frozen=True)
class Row:
    """What a person decides on and a model is trained on."""

    instruction: str
    input: str
    output: str
    is_classification: bool | None = None
    """None where nobody has asked."""
    language: str = ""
    """ISO code of the prompts that made it."""
    origin: str = "generated"
    """generated, evolved or answered."""
    request: str = ""
    """Key of the answer it came from, in answers.jsonl."""
    score: int | None = None
    """The teacher's own, 1 to 5."""
    nearest: dict[str, Any] | None = None
    """{"rouge_l", "instruction"} of the most similar instruction before it."""
    findings: tuple[Finding, ...] = ()

    @cached_property  # asked for on every row, again and again, while a person decides
    def id(self) -> str:
        """Of the words alone: a decision belongs to exactly these words."""
        return of_value([self.instruction, self.input, self.output])[:32]

    @property
    def dropped(self) -> bool:
        return any(finding.drops for finding in self.findings)

    def found(self, *findings: Finding) -> "Row":
        return replace(self, findings=(*self.findings, *findings))

    def as_json(self) -> dict[str, Any]:
        """A line of rows.not_cleaned.jsonl or dropped.jsonl."""
        return {
            "id": self.id,
            "instruction": self.instruction,
            "input": self.input,
            "output": self.output,
            "is_classification": self.is_classification,
            "language": self.language,
            "origin": self.origin,
            "request": self.request,
            "score": self.score,
            "nearest": self.nearest,
            "findings": [vars(finding) for finding in self.findings],
        }


def row_of(line: dict[str, Any]) -> Row:
    """The row of such a line. Rows of others (three texts and no more) are rows too."""
    known = {name: line[name] for name in Row.__dataclass_fields__ if name in line and name != "findings"}
    known |= {name: line.get(name) or "" for name in ("instruction", "input", "output")}
    return Row(**known, findings=tuple(Finding(**found) for found in line.get("findings", ())))
