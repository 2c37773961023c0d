"""A recipe file and its ``key=value`` overrides become one typed object, or a list of problems with their lines."""

import difflib
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from easyllm.core.complaints import MISSING, UNKNOWN, Complaint, Keys, complaints
from easyllm.core.errors import Problem, UserError, problem
from easyllm.core.messages import say
from easyllm.core.section import Section

R = TypeVar("R", bound=Section)


@dataclass(frozen=True)
class Source:
    """Where a recipe came from, for error messages: the file and the line of every key."""

    path: Path
    lines: dict[Keys, int]

    def place(self, keys: Keys) -> tuple[str, int | None]:
        """(file, line) of ``keys``, or of the nearest parent that stands in the file."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.lines:
                line = self.lines[keys[:end]]
                return ("command line", None) if line == 0 else (str(self.path), line)
        return str(self.path), None


def load(path: Path, overrides: list[str], model: type[R]) -> tuple[R, Source]:
    """Read, override and validate. Raises UserError with every problem found."""
    data, source = read(path)
    return fill(data, source, overrides, model), source


def fill(data: dict[str, Any], source: Source, overrides: list[str], model: type[R]) -> R:
    """``data`` with its overrides, validated. Raises UserError with every problem found."""
    for override in overrides:
        _override(data, source, override)
    return validate(data, source, model)


def read(path: Path) -> tuple[dict[str, Any], Source]:
    """The YAML mapping of ``path`` and the line of every key in it (1-based)."""
    import yaml

    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UserError(problem("RECIPE-001", path=str(path), reason=error.strerror)) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        reason = getattr(error, "problem", None) or str(error)
        raise UserError(problem("RECIPE-002", reason=reason, file=path, line=line)) from error
    if not isinstance(data, dict):
        raise UserError(problem("RECIPE-002", reason="not a mapping of sections", file=path, line=1))
    lines: dict[Keys, int] = {}
    twice: list[Problem] = []
    for keys, line in _lines(node, ()):
        if keys in lines:  # YAML's reader would take the last one without a word
            reason = say("key_twice", key=".".join(map(str, keys)), line=lines[keys])
            twice.append(problem("RECIPE-002", reason=reason, file=path, line=line))
        lines.setdefault(keys, line)
    if twice:
        raise UserError(*twice)
    return data, Source(path, lines)


def _lines(node: Any, at: Keys) -> Iterator[tuple[Keys, int]]:
    """The line of every key below ``node``, a YAML node, in the file's order."""
    if isinstance(node.value, list):
        for index, child in enumerate(node.value):
            name, inner, mark = (
                (child[0].value, child[1], child[0]) if isinstance(child, tuple) else (index, child, child)
            )
            yield (*at, name), mark.start_mark.line + 1
            yield from _lines(inner, (*at, name))


def _override(data: dict[str, Any], source: Source, override: str) -> None:
    """Apply ``a.b.c=value`` in place; the value is YAML, so numbers, lists and null mean what they say."""
    import yaml

    dotted, separator, text = override.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not separator or not all(keys):
        raise UserError(problem("RECIPE-005", given=override))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(problem("RECIPE-005", given=override)) from error
    place: dict[str, Any] = data
    for key in keys[:-1]:
        inner = place.get(key)
        if not isinstance(inner, dict):
            inner = {}
            place[key] = inner
        place = inner
    place[keys[-1]] = value
    for old in [known for known in source.lines if known[: len(keys)] == keys]:
        del source.lines[old]  # of what the override has replaced
    source.lines[keys] = 0  # line 0 stands for the command line


def validate(data: dict[str, Any], source: Source, model: type[R]) -> R:
    """The typed recipe. Every pydantic complaint becomes one of our problems, with its place."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = complaints(error.errors(include_url=False), data)
        raise UserError(*(_explain(complaint, source, model) for complaint in found)) from error


def _explain(complaint: Complaint, source: Source, model: type[Section]) -> Problem:
    keys = complaint.keys
    dotted = ".".join(str(key) for key in keys)
    file, line = source.place(keys)
    stage = str(keys[0]) if len(keys) > 1 else None
    if complaint.kind == UNKNOWN:
        known = sorted(fields_at(model, keys[:-1]))
        near = difflib.get_close_matches(str(keys[-1]), known, n=1, cutoff=0.0)
        return problem(
            "RECIPE-003", stage=stage, key=dotted, file=file, line=line,
            nearest=near[0] if near else "-", known=", ".join(known),
        )  # fmt: skip
    if complaint.kind == MISSING:
        return problem("RECIPE-004", stage=stage, key=dotted, file=file, line=line)
    told = {"value": complaint.value, "detail": complaint.detail}
    return problem("RECIPE-006", stage=stage, key=dotted, file=file, line=line, **told)


def fields_at(model: type[Section], keys: Keys) -> dict[str, Any]:
    """The pydantic fields of the section that ``keys`` lead to, through optional and list types."""
    current: type[Section] = model
    for key in keys:
        if isinstance(key, int):
            continue
        found = section_of(current.model_fields[key].annotation) if key in current.model_fields else None
        if found is None:
            return {}
        current = found
    return dict(current.model_fields)


def section_of(annotation: Any) -> type[Section] | None:
    """The Section inside ``Section``, ``Section | None`` or ``list[Section]``, or None."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, tuple, typing.Annotated):
        for inner in typing.get_args(annotation):
            found = section_of(inner)
            if found:
                return found
    return None
