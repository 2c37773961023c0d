"""What is longer than a model reads: refused where it is the user's own, cut from the left where it is a task's."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from easyllm.core.errors import UserError, problem
from easyllm.core.examples import Example
from easyllm.core.stage import Job
from easyllm.core.tuning.layers import context_tokens
from easyllm.evaluate.config import EvaluateConfig


def shortest_context(directories: Iterable[Path]) -> int | None:
    """Positions of the model that has the fewest; None where none of them says."""
    found = (context_tokens(directory / "config.json") for directory in directories)
    return min((positions for positions in found if positions), default=None)


def require_room(
    job: Job[EvaluateConfig], positions: int | None, examples: Sequence[Example], prompts: Sequence[list[int]]
) -> None:  # fmt: skip
    """UserError EVAL-021 for each row, and EVAL-022 for each prompt with its answer, that the models cannot hold."""
    if positions is None:
        return
    found = [
        problem(
            "EVAL-021", stage=job.stage, key="evaluate.data", file=example.source.file, line=example.source.line,
            tokens=len(example.ids), positions=positions,
        )
        for example in examples if len(example.ids) > positions
    ]  # fmt: skip
    longest = job.config.max_new_tokens
    found += [
        problem(
            "EVAL-022", stage=job.stage, key="evaluate.max_new_tokens",
            number=number, tokens=len(ids), longest=longest, positions=positions,
        )
        for number, ids in enumerate(prompts, 1) if len(ids) + longest > positions
    ]  # fmt: skip
    if found:
        raise UserError(*found[:10])
