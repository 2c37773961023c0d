"""What a teacher's answer says: JSON, whole or cut, or the plain form that was asked for in words.

Every reader gives None where the answer is in no form that can be read; what was cut off is left out, never guessed.
"""

import re
from typing import Any

from pydantic_core import from_json

from easyllm.instruct.ask import Answer

NOTHING = {"", "<noinput>", "noinput", "none", "n/a", "<无输入>", "无输入", "无", "<no input>", "no input"}
"""Ways of saying that there is no input."""

_FENCE = re.compile(r"```(?:json)?\s*(.*?)(?:```|\Z)", re.DOTALL)
_NUMBERED = re.compile(r"^\s*(?:\d{1,2}\s*[.、:)）：]|[-*•])\s*(?=\S)", re.MULTILINE)
_LABEL = re.compile(
    r"^\s*(?:\d{1,2}\s*[.、)）]\s*)?[*#]*\s*"
    r"(?:(?P<instruction>instruction|task|指令|任务)|(?P<input>input|输入)|(?P<output>output|answer|label|输出|回答|标签))"
    r"\s*\d{0,2}\s*[*]*\s*[:：][*]*[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_KIND = re.compile(r"\b(yes|true|no|false)\b|(不是|否|是)", re.IGNORECASE)


def instructions_of(answer: Answer) -> list[str] | None:
    """The instructions of the answer, in its order."""
    found = _json(answer)
    if isinstance(found, dict):
        found = found.get("instructions")
    if isinstance(found, list):
        return [_plain(entry) for entry in found if _plain(entry)]
    if found is not None or not _NUMBERED.search(answer.text):
        return None
    marks = list(_NUMBERED.finditer(answer.text))
    ends = [mark.start() for mark in marks[1:]] + [len(answer.text)]
    texts = [_line(answer.text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]
    return [text for text in (texts[:-1] if answer.cut else texts) if text]


def kind_of(answer: Answer) -> bool | None:
    """Whether it says that the task is a classification."""
    found = _json(answer)
    if isinstance(found, dict):
        value = found.get("classification")
        return value if isinstance(value, bool) else None
    mark = _KIND.search(answer.text)
    return mark[0].lower() in ("yes", "true", "是") if mark else None


def instances_of(answer: Answer) -> list[dict[str, str]] | None:
    """{"input", "output"} of every instance that is whole."""
    return _objects(answer, "instances", ("input", "output"))


def rows_of(answer: Answer) -> list[dict[str, str]] | None:
    """{"instruction", "input", "output"} of every row that is whole."""
    return _objects(answer, "rows", ("instruction", "input", "output"))


def evolved_of(answer: Answer) -> str | None:
    found = _json(answer)
    if found is not None:
        text = found.get("instruction") if isinstance(found, dict) else None
        return _plain(text) or None
    return None if answer.cut else answer.text.strip() or None


def _objects(answer: Answer, name: str, names: tuple[str, ...]) -> list[dict[str, str]] | None:
    found = _json(answer)
    if isinstance(found, dict):
        found = found.get(name, [found] if set(names) <= set(found) else None)
    if isinstance(found, list):
        return [_texts(entry, names) for entry in found if isinstance(entry, dict) and entry.get("output") is not None]
    return _blocks(answer, names) if found is None else None


def _blocks(answer: Answer, names: tuple[str, ...]) -> list[dict[str, str]] | None:
    """Objects of labelled lines: a label that came already begins the next one."""
    marks = list(_LABEL.finditer(answer.text))
    ends = [mark.start() for mark in marks[1:]] + [len(answer.text)]
    found: list[dict[str, str]] = []
    for mark, end in zip(marks, ends, strict=False):
        name = str(mark.lastgroup)
        if name not in names:
            continue
        if not found or name in found[-1]:
            found.append({})
        found[-1][name] = answer.text[mark.end() : end].strip()
    if answer.cut and found:
        found.pop()
    whole = [_texts(entry, names) for entry in found if set(names) - set(entry) <= {"input"}]
    return whole or None


def _texts(entry: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    texts = {name: _plain(entry.get(name)) for name in names}
    if texts["input"].strip().lower() in NOTHING:
        texts["input"] = ""
    return texts


def _plain(value: Any) -> str:
    """A text as it is; a number or a list that stands where a text should becomes one, nothing becomes empty."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return "\n".join(value).strip()
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _line(text: str) -> str:
    """A numbered item: its first paragraph on one line."""
    return " ".join(text.strip().split("\n\n")[0].split())


def _json(answer: Answer) -> Any:
    """The JSON value of the answer, also inside a fence or behind a few words; None where it is no JSON.

    Of a cut value the entries that are whole are left: the last one of its list may have lost its end.
    """
    fence = _FENCE.search(answer.text)
    text = (fence[1] if fence else answer.text).strip()
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start < 0 or (start > 0 and not fence and text[start] == "["):
        return None
    text = text[start:]
    for end in (len(text), text.rfind("}") + 1, text.rfind("]") + 1):
        try:
            return from_json(text[:end])
        except ValueError:
            continue
    try:
        return _without_last(from_json(text, allow_partial="trailing-strings"))
    except ValueError:
        return None


def _without_last(value: Any) -> Any:
    if isinstance(value, list):
        return value[:-1]
    if isinstance(value, dict) and value:
        *before, (name, last) = value.items()
        return dict(before) | {name: last[:-1]} if isinstance(last, list) else dict(before)
    return value
