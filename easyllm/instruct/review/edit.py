"""A row's three texts in the reviewer's own editor, or line by line where he has none."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from easyllm.core.messages import say
from easyllm.instruct.review.keys import Keys, Terminal
from easyllm.instruct.review.log import TEXTS, missing_text
from easyllm.instruct.row import Row


class NotEdited(Exception):
    """What came back cannot be accepted; the text says why."""


def edited(row: Row, keys: Keys) -> dict[str, str]:
    """The texts as the reviewer wants them. Raises NotEdited."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    words = {name: getattr(row, name) for name in TEXTS}
    found = _in_editor(editor, words) if editor and isinstance(keys, Terminal) else _by_line(words, keys)
    if name := missing_text(found):
        raise NotEdited(say("tui_edit_empty", name=say(f"tui_{name}")))
    return found


def _by_line(words: dict[str, str], keys: Keys) -> dict[str, str]:
    return {name: keys.line(say("tui_edit_line", name=say(f"tui_{name}")), text) for name, text in words.items()}


def _in_editor(editor: str, words: dict[str, str]) -> dict[str, str]:
    marks = _marks(words)
    with tempfile.TemporaryDirectory(prefix="easyllm-review-") as folder:
        path = Path(folder) / "row.txt"
        path.write_bytes("".join(f"{marks[name]}\n{text}\n" for name, text in words.items()).encode())
        try:
            code = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode
            text = path.read_bytes().decode()
        except (OSError, ValueError) as error:  # no such editor; what it wrote is not UTF-8
            reason = error.strerror if isinstance(error, OSError) else error
            raise NotEdited(say("tui_edit_failed", editor=editor, reason=reason)) from error
    if code:
        raise NotEdited(say("tui_edit_failed", editor=editor, reason=code))
    found = _parts(text, marks, editor)
    # Editors end a file with one line end: only what differs in more than that was changed.
    return {name: words[name] if found[name] == words[name].rstrip("\n") else found[name] for name in words}


def _marks(words: dict[str, str]) -> dict[str, str]:
    """A line for each text that stands in none of them."""
    rule = "-" * 8
    while any(rule in text for text in words.values()):
        rule += "-"
    return {name: f"{rule} {say(f'tui_{name}')} {rule}" for name in words}


def _parts(text: str, marks: dict[str, str], editor: str) -> dict[str, str]:
    found, lines = {}, text.split("\n")
    if any(lines.count(mark) != 1 for mark in marks.values()):
        raise NotEdited(say("tui_edit_failed", editor=editor, reason=say("tui_edit_markers")))
    begins = [lines.index(mark) for mark in marks.values()]
    if begins != sorted(begins):
        raise NotEdited(say("tui_edit_failed", editor=editor, reason=say("tui_edit_markers")))
    for name, begin, end in zip(marks, begins, [*begins[1:], len(lines)], strict=True):
        found[name] = "\n".join(lines[begin + 1 : end]).rstrip("\n")
    return found
