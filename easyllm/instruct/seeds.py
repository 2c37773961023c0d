"""Seed tasks: what people wrote, for the teacher to write more like it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from easyllm.core.errors import refuse
from easyllm.core.rows import read_rows
from easyllm.core.stage import Job
from easyllm.instruct.config import InstructConfig
from easyllm.instruct.ift.example import Example
from easyllm.instruct.ift.read import examples_of

_HAN = re.compile(r"[\u3400-\u9fff]")
_WORD = re.compile(r"[^\W\d_\u3400-\u9fff]+")


@dataclass
class Seed:
    """One task, with one or several pairs of input and answer."""

    id: str
    """As its file has it, with the file's name before it where two files share one; else file:line."""
    name: str
    instruction: str
    instances: list[dict[str, str]] = field(default_factory=list)
    """Each {"input", "output"}; the input is empty where the task needs none."""
    is_classification: bool | None = None
    """None where nobody said."""

    @property
    def language(self) -> str:
        """``zh`` where most words of the instruction are Chinese characters, else ``en``."""
        return "zh" if len(_HAN.findall(self.instruction)) > len(_WORD.findall(self.instruction)) else "en"


def read_seeds(files: Iterable[Path], stage: str, answered: bool = True) -> list[Seed]:
    """The seed tasks of ``files``, in their order: Self-Instruct and Alpaca rows, mixed as they come.

    Rows with one instruction are one seed, and their different instances are its own. Not ``answered``: rows may lack
    an answer, for a teacher that is to give it. Raises UserError: ROWS-00x not readable, IFT-001, IFT-002, DATA-002
    and DATA-003 no task, INSTRUCT-050 a conversation, INSTRUCT-051 an id twice in one file, INSTRUCT-052 none at all.
    """
    found: dict[str, Seed] = {}
    taken: set[str] = set()
    files = list(files)
    for file in files:
        lines: dict[str, int] = {}
        for line, row in read_rows(file, stage):
            examples = examples_of(row, stage, file, line, answered)
            first = examples[0]
            if first.id and lines.setdefault(first.id, line) != line:
                raise refuse("INSTRUCT-051", stage=stage, file=file, line=line, id=first.id, first=lines[first.id])
            for example in examples:
                _add(found, taken, example, stage)
        taken |= lines.keys()
    if not found:
        raise refuse("INSTRUCT-052", stage=stage, key=f"{stage}.seeds", files=", ".join(f.name for f in files) or "-")
    return list(found.values())


def _add(found: dict[str, Seed], taken: set[str], example: Example, stage: str) -> None:
    """Make a seed of ``example``, or add it to the one with its instruction. ``taken``: ids of the files before."""
    assert example.file is not None
    if example.task is None:
        raise refuse("INSTRUCT-050", stage=stage, file=example.file, line=example.line)
    instruction, given, output = example.task
    stem = example.file.name.partition(".")[0]
    number = f"{stem}:{example.id or example.line}" if not example.id or example.id in taken else example.id
    seed = found.setdefault(instruction.strip(), Seed(number, example.name, instruction.strip()))
    if seed.is_classification is None:
        seed.is_classification = example.is_classification
    instance = {"input": given, "output": output}
    if instance not in seed.instances:
        seed.instances.append(instance)


def seeds_of(job: Job[InstructConfig]) -> list[Seed]:
    """Those of a recipe; with ``method: answers`` they may lack an answer. Raises as ``read_seeds`` does."""
    return read_seeds(job.inputs["seeds"].files, job.stage, answered=job.config.method != "answers")
