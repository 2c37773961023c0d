"""What is asked: prompts from the recipe and from files, some with the texts an answer should hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.errors import refuse
from easyllm.core.rows import read_rows
from easyllm.core.stage import Job
from easyllm.evaluate.config import EvaluateConfig


@dataclass(frozen=True)
class Question:
    """One prompt; ``expect`` holds the texts of which a right answer has one, empty where nothing is expected."""

    prompt: str
    expect: tuple[str, ...] = ()

    def hit(self, answer: str) -> bool | None:
        """Whether the answer holds an expected text, upper or lower case; None where none is expected."""
        if not self.expect:
            return None
        return any(text.casefold() in answer.casefold() for text in self.expect)


def questions(job: Job[EvaluateConfig]) -> list[Question]:
    """All prompts, the recipe's first. Raises UserError: ROWS-00x, EVAL-002."""
    found = [Question(prompt) for prompt in job.config.prompts]
    files = job.inputs["prompt_files"].files if "prompt_files" in job.inputs else ()
    return found + [_question(row, file, line) for file in files for line, row in read_rows(file, job.stage)]


def _question(row: dict[str, Any], file: Path, line: int) -> Question:
    prompt, expect = row.get("prompt"), row.get("expect", [])
    texts = [expect] if isinstance(expect, str) else expect
    good = isinstance(prompt, str) and prompt.strip() and isinstance(texts, list) and set(row) <= {"prompt", "expect"}
    if not good or not all(isinstance(text, str) and text for text in texts):
        raise refuse("EVAL-002", stage="evaluate", file=file, line=line)
    return Question(str(prompt), tuple(texts))
