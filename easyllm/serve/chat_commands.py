"""What a line that begins with / does in the terminal chat. Each command says what it did, and may ask a prompt."""

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path

from easyllm.core.conversations import messages_of
from easyllm.core.errors import UserError
from easyllm.core.inputs import written_path
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.core.rows import read_rows
from easyllm.serve.talk import Question, Talk, Turn

Rewrite = Callable[[str], str]
"""Lets the user write a text in other words, where there is somebody to do it."""

NUMBERS: dict[str, tuple[type[int] | type[float], float, float]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0.01, 1),
    "max_tokens": (int, 1, 1_000_000),
    "seed": (int, 0, 2**63 - 1),
    "top_k": (int, 0, 1_000_000),
    "repetition_penalty": (float, 0.01, 100),
    "frequency_penalty": (float, -2, 2),
    "presence_penalty": (float, -2, 2),
}
"""What /set sets: its type, the least and the most."""
UNSET = "-"
NUMBER_CHARACTERS = 20
"""Enough to read and to show of a number; Python reads none of thousands of digits."""


class NotDone(Exception):
    """Why a command did nothing."""


def obey(talk: Talk, line: str, rewrite: Rewrite | None = None) -> Question | None:
    """Do what ``line`` says; returns what is to be asked now, if anything. Raises NotDone.

    A line that begins with // is a prompt that begins with /.
    """
    if line.startswith("//"):
        return Question(line[1:])
    name, _, rest = line[1:].partition(" ")
    if name not in COMMANDS:
        raise NotDone(say("chat_unknown", name=name))
    return COMMANDS[name](talk, rest.strip(), rewrite)


def _help(talk: Talk, rest: str, rewrite: Rewrite | None) -> None:
    note(say("chat_help"))


def _reset(talk: Talk, rest: str, rewrite: Rewrite | None) -> None:
    talk.forget()
    note(say("chat_forgot"))


def _system(talk: Talk, rest: str, rewrite: Rewrite | None) -> None:
    if rest:
        talk.system = "" if rest == UNSET else rest
    note(say("chat_system", text=talk.system) if talk.system else say("chat_system_none"))


def _set(talk: Talk, rest: str, rewrite: Rewrite | None) -> None:
    if rest:
        name, _, text = rest.partition(" ")
        if name not in NUMBERS:
            raise NotDone(say("chat_set_unknown", name=name, names=", ".join(NUMBERS)))
        if text.strip() == UNSET:
            talk.settings.pop(name, None)
        else:
            talk.settings[name] = _number(name, text.strip())
    told = [f"{name} {talk.settings.get(name, say('chat_servers_choice'))}" for name in NUMBERS]
    note(" · ".join(told))


def _number(name: str, text: str) -> float:
    kind, least, most = NUMBERS[name]
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:  # nan is between nothing
        key = "chat_set_whole" if kind is int else "chat_set_bounds"
        raise NotDone(say(key, name=name, least=least, most=int(most), asked=text[:NUMBER_CHARACTERS] or "-"))
    return value


def _regenerate(talk: Talk, rest: str, rewrite: Rewrite | None) -> Question:
    if not talk.turns:
        raise NotDone(say("chat_nothing"))
    return Question(talk.turns[-1].prompt, len(talk.turns) - 1)


def _edit(talk: Talk, rest: str, rewrite: Rewrite | None) -> Question:
    number, _, text = rest.partition(" ")
    number = number[:NUMBER_CHARACTERS]
    if not number.isdecimal() or not 1 <= int(number) <= len(talk.turns):
        raise NotDone(say("chat_edit_which", asked=number or "-", count=len(talk.turns)))
    at = int(number) - 1
    if not text.strip() and rewrite:
        text = rewrite(talk.turns[at].prompt)
    if not text.strip():
        raise NotDone(say("chat_edit_text", number=number))
    return Question(text.strip(), at)


def _path(rest: str) -> Path:
    """The file that is meant. Raises NotDone where none can be called that."""
    if "\0" in rest:
        raise NotDone(say("chat_no_name", name=repr(rest)))
    return written_path(rest)


def _save(talk: Talk, rest: str, rewrite: Rewrite | None) -> None:
    """Add a row for each model that answered last; a file of many saved conversations is a file to train on."""
    if not rest:
        raise NotDone(say("chat_which_file", name="save"))
    if not talk.turns:
        raise NotDone(say("chat_nothing"))
    rows = [{"messages": talk.messages(talk.turns, model), "model": model} for model in talk.turns[-1].answers]
    path = _path(rest)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise NotDone(say("chat_not_saved", path=path, reason=error.strerror or error)) from error
    note(say("chat_saved", path=path, count=len(rows)))


def _load(talk: Talk, rest: str, rewrite: Rewrite | None) -> None:
    """The conversation of a file's last row takes the place of this one."""
    if not rest:
        raise NotDone(say("chat_which_file", name="load"))
    path = _path(rest)
    try:
        last = deque(read_rows(path, "chat"), maxlen=1)
        if not last:
            raise NotDone(say("chat_not_loaded", path=path, reason=say("chat_no_rows")))
        [(line, row)] = last
        messages = messages_of(row, "chat", path, line)
    except OSError as error:
        raise NotDone(say("chat_not_loaded", path=path, reason=error.strerror or error)) from error
    except UserError as error:
        raise NotDone(str(error)) from error
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    roles = [message["role"] for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise NotDone(say("chat_not_loaded", path=path, reason=say("chat_not_in_turns", line=line)))
    said = [message["content"] for message in messages]
    model = str(row.get("model") or talk.model)
    talk.system = system
    talk.turns = [Turn(asked, {model: told}) for asked, told in zip(said[::2], said[1::2], strict=True)]
    note(say("chat_loaded", path=path, line=line, count=len(talk.turns)))


def _model(talk: Talk, rest: str, rewrite: Rewrite | None) -> None:
    if rest:
        talk.model = _known(talk, rest)
        talk.beside = None if talk.beside == talk.model else talk.beside
    note(say("chat_models", models=", ".join(talk.models), asked=", ".join(talk.asked())))


def _compare(talk: Talk, rest: str, rewrite: Rewrite | None) -> None:
    beside = None if rest in ("", UNSET) else _known(talk, rest)
    if beside == talk.model:
        raise NotDone(say("chat_same_model", name=rest))
    talk.beside = beside
    note(say("chat_models", models=", ".join(talk.models), asked=", ".join(talk.asked())))


def _known(talk: Talk, name: str) -> str:
    if name not in talk.models:
        raise NotDone(say("chat_no_model", name=name, models=", ".join(talk.models)))
    return name


COMMANDS: dict[str, Callable[[Talk, str, Rewrite | None], Question | None]] = {
    "help": _help, "reset": _reset, "system": _system, "set": _set, "regenerate": _regenerate, "edit": _edit,
    "save": _save, "load": _load, "model": _model, "compare": _compare,
}  # fmt: skip
