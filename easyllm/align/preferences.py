"""Rows of preference data: an answer that was chosen, one that was rejected, or both."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyllm.core.conversations import KEPT_KEYS, ONCE, ROLES, Message, conversation_of
from easyllm.core.digest import of_value
from easyllm.core.errors import UserError, refuse
from easyllm.core.messages import say
from easyllm.core.rows import read_rows

Said = tuple[Message, ...]
"""A prompt, or an answer: one message of the assistant."""


@dataclass(frozen=True)
class Preference:
    """One row of a data file. A row of kto that judges a single answer has only one of the two."""

    prompt: Said
    chosen: Said | None
    rejected: Said | None
    file: Path
    line: int
    tools: tuple[dict[str, Any], ...] = ()
    """What the model may call, as JSON schemas; the template writes them."""

    @property
    def digest(self) -> str:
        """Of what is said, so that two rows with the same words are the same row."""
        said = [self.prompt, self.chosen, self.rejected]
        return of_value([*said, self.tools] if self.tools else said)

    @property
    def prompt_digest(self) -> str:
        """Of the question alone: answers to one question are held out together."""
        return of_value([list(self.prompt), self.tools] if self.tools else list(self.prompt))


def read_preferences(files: Iterable[Path], objective: str, stage: str) -> Iterator[Preference]:
    """Every row. Raises UserError: ROWS-00x not readable, ALIGN-001 to ALIGN-005, DATA-002 not a preference."""
    for file in files:
        for line, row in read_rows(file, stage):
            yield _Reader(stage, file, line).preference(row, objective)


@dataclass(frozen=True)
class _Reader:
    """Reads one row; every fault carries its place."""

    stage: str
    file: Path
    line: int

    def preference(self, row: dict[str, Any], objective: str) -> Preference:
        row = {key: value for key, value in row.items() if value is not None}
        if "chosen" in row and "rejected" in row:
            return self._pair(row)
        if not {"prompt", "completion", "label"} <= row.keys():
            raise self._refuse("ALIGN-001", keys=", ".join(row) or "-")
        if objective != "kto":
            raise self._refuse("ALIGN-005", objective=objective)
        if not isinstance(row["label"], bool):
            raise self._malformed(say("align_label", value=row["label"]))
        prompt = self._prompt(row)
        answer = self._answer(row["completion"], "completion")
        chosen, rejected = (answer, None) if row["label"] else (None, answer)
        return self._with_tools(row, prompt, chosen, rejected)

    def _pair(self, row: dict[str, Any]) -> Preference:
        if "prompt" in row:
            prompt = self._prompt(row)
            chosen, rejected = (self._answer(row[name], name) for name in ("chosen", "rejected"))
        else:
            prompt, chosen, rejected = self._parted(row)
        if chosen == rejected:
            raise self._refuse("ALIGN-004")
        return self._with_tools(row, prompt, chosen, rejected)

    def _with_tools(self, row: dict[str, Any], prompt: Said, chosen: Said | None, rejected: Said | None) -> Preference:
        """Tools and their calls by the rules that finetune reads them by. Raises UserError DATA-002."""
        tools: tuple[dict[str, Any], ...] = ()
        for answer in (chosen, rejected):
            if answer and (row.get("tools") or any("tool_calls" in message for message in (*prompt, *answer))):
                said = {"prompt": [*prompt], "completion": [*answer], "tools": row.get("tools")}
                tools = conversation_of(said, self.stage, self.file, self.line, ONCE).tools
        return Preference(prompt, chosen, rejected, self.file, self.line, tools)

    def _parted(self, row: dict[str, Any]) -> tuple[Said, ...]:
        """(prompt, chosen, rejected) of two whole conversations: the prompt is what they begin with alike."""
        chosen, rejected = (self._messages(row[name], name) for name in ("chosen", "rejected"))
        if chosen == rejected:
            raise self._refuse("ALIGN-004")
        same = 0
        while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
            same += 1
        if same == 0 or same >= len(chosen) or same >= len(rejected):
            raise self._malformed(say("align_no_prompt"))
        prompt, tails = chosen[:same], (chosen[same:], rejected[same:])
        if prompt[-1]["role"] == "assistant":
            raise self._malformed(say("align_prompt_role"))
        answers = (self._answered(tail, name) for tail, name in zip(tails, ("chosen", "rejected"), strict=True))
        return (self._system(row) + prompt, *answers)

    def _system(self, row: dict[str, Any]) -> Said:
        """The row's own system message, before its prompt, as finetune reads it."""
        return self._messages([{"role": "system", "content": row["system"]}], "system") if row.get("system") else ()

    def _prompt(self, row: dict[str, Any]) -> Said:
        given = row["prompt"]
        messages = self._messages([{"role": "user", "content": given}] if isinstance(given, str) else given, "prompt")
        if messages[-1]["role"] == "assistant":
            raise self._malformed(say("align_prompt_role"))
        if not messages[-1]["content"].strip():
            raise self._refuse("ALIGN-003", name="prompt")
        return self._system(row) + messages

    def _answer(self, given: Any, name: str) -> Said:
        if isinstance(given, str):
            return self._answered(({"role": "assistant", "content": given},), name)
        return self._answered(self._messages(given, name), name)

    def _answered(self, messages: Said, name: str) -> Said:
        """One answer of an assistant and nothing else; one that calls a tool may say nothing."""
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise self._malformed(say("align_answer", name=name, roles=", ".join(m["role"] for m in messages)))
        if not messages[0]["content"].strip() and "tool_calls" not in messages[0]:
            raise self._refuse("ALIGN-003", name=name)
        return messages

    def _messages(self, given: Any, name: str) -> Said:
        kept = [_kept(message) for message in given] if isinstance(given, list) else []
        messages = tuple(message for message in kept if message is not None)
        if not messages or len(messages) < len(kept):
            raise self._malformed(say("align_messages", name=name))
        return messages

    def _malformed(self, detail: str) -> UserError:
        return self._refuse("ALIGN-002", detail=detail)

    def _refuse(self, code: str, **params: Any) -> UserError:
        return refuse(code, stage=self.stage, file=self.file, line=self.line, **params)


def _kept(message: Any) -> Message | None:
    """What a template reads of a message; None where it is none."""
    if not isinstance(message, dict):
        return None
    kept = {key: message[key] for key in KEPT_KEYS if message.get(key) is not None}
    if kept.get("tool_calls"):
        kept.setdefault("content", "")
    else:
        kept.pop("tool_calls", None)  # an empty list, as some exports write for every answer
    known = kept.get("role") in (*ROLES, "tool") and isinstance(kept.get("content"), str)
    return kept if known else None


@dataclass(frozen=True)
class Split:
    """Rows in the order of their files; ``same`` counts rows whose words stand in an earlier row too."""

    train: list[Preference]
    held_out: list[Preference]
    same: int


def split(rows: Sequence[Preference], validation_rows: int, seed: int, stage: str) -> Split:
    """Hold out ``validation_rows`` different prompts, with every row that asks them.

    Raises UserError: ALIGN-006 no rows, ALIGN-007 nothing left to train on, ALIGN-008 only one kind of label.
    """
    if not rows:
        raise refuse("ALIGN-006", stage=stage, key=f"{stage}.data")
    prompts = [row.prompt_digest for row in rows]
    different = sorted(set(prompts), key=lambda digest: of_value([seed, digest]))
    if validation_rows >= len(different):
        key = f"{stage}.validation_rows"
        raise refuse("ALIGN-007", stage=stage, key=key, asked=validation_rows, rows=len(different))
    chosen = set(different[:validation_rows])
    train = [row for row, digest in zip(rows, prompts, strict=True) if digest not in chosen]
    held_out = [row for row, digest in zip(rows, prompts, strict=True) if digest in chosen]
    both_kinds(train, stage)
    return Split(train, held_out, len(rows) - len({row.digest for row in rows}))


def both_kinds(rows: Sequence[Preference], stage: str) -> None:
    """Raises UserError ALIGN-008 where the rows to train on hold only one kind of answer."""
    good, bad = (sum(getattr(row, name) is not None for row in rows) for name in ("chosen", "rejected"))
    if not good or not bad:
        raise refuse("ALIGN-008", stage=stage, key=f"{stage}.data", good=good, bad=bad)
