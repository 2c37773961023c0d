"""A user's mistake: a code, the numbers, the place and the fix. Several travel together in one UserError."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyllm.core.messages import error_text


@dataclass(frozen=True)
class Problem:
    """One entry of the catalogue with its numbers and its place.

    ``key`` is the dotted recipe key, ``file`` and ``line`` the place in the user's own file.
    """

    code: str
    params: dict[str, Any] = field(default_factory=dict)
    stage: str | None = None
    key: str | None = None
    file: str | None = None
    line: int | None = None

    @property
    def what(self) -> str:
        return error_text(self.code, self.params)[0]

    @property
    def fix(self) -> str:
        return error_text(self.code, self.params)[1]

    def __str__(self) -> str:
        place = ""
        if self.file:
            place = f" ({self.file}:{self.line})" if self.line else f" ({self.file})"
        return f"{self.code}  {self.what}{place} {self.fix}"

    def as_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "message": self.what,
            "stage": self.stage,
            "key": self.key,
            "file": self.file,
            "line": self.line,
            "fix": self.fix,
        }


def problem(
    code: str,
    /,
    *,
    stage: str | None = None,
    key: str | None = None,
    file: str | Path | None = None,
    line: int | None = None,
    **params: Any,
) -> Problem:
    """A Problem whose text fields are ``params``; ``key``, ``file`` and ``line`` may be used in the text too."""
    texts = {"stage": stage, "key": key, "file": str(file) if file else None, "line": line} | params
    return Problem(code, texts, stage, key, str(file) if file else None, line)


class UserError(Exception):
    """Refused: exit code 2, no traceback. Holds one or several problems."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["UserError"], tuple[Problem, ...]]:
        return UserError, self.problems  # a worker process hands it to its parent with its problems


def refuse(code: str, /, **params: Any) -> UserError:
    """``raise refuse("BATCH-002", asked=128, ...)``: a UserError of one problem."""
    return UserError(problem(code, **params))


class StageFailed(Exception):
    """Failed though the input was good (a rank died, a parity gate did not hold): exit code 1, no traceback.

    A gate or a diagnosis that a person meets is a problem of the catalogue; a broken promise between our own parts
    is a plain sentence.
    """

    def __init__(self, what: Problem | str) -> None:
        super().__init__(str(what))
        self.problem = what if isinstance(what, Problem) else None

    def as_json(self) -> dict[str, Any]:
        """The same keys as a Problem's; the code of a plain sentence is FAILED."""
        if self.problem:
            return self.problem.as_json()
        return dict.fromkeys(("stage", "key", "file", "line", "fix")) | {"code": "FAILED", "message": str(self)}


def failed(code: str, /, **params: Any) -> StageFailed:
    """``raise failed("PARITY-001", ...)``: a StageFailed of the catalogue."""
    return StageFailed(problem(code, **params))


class Waiting(Exception):
    """Prepared, and now it is for ``commands`` elsewhere; the same verb gathers what they make. Exit code 3.

    Without commands they are at work already.
    """

    def __init__(self, told: str, commands: list[str]) -> None:
        super().__init__("\n".join([told, *[f"  $ {command}" for command in commands]]))
        self.told, self.commands = told, commands

    def as_json(self) -> dict[str, Any]:
        return {"waiting": {"message": self.told, "commands": self.commands}}
