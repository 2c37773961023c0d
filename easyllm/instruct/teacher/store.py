"""answers.jsonl: every answer that was paid for, on disk before anybody hears of it."""

import asyncio
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from easyllm.core.errors import refuse
from easyllm.core.rows import read_rows
from easyllm.instruct.ask import Answer, Ask
from easyllm.instruct.teacher.journal import STAGE, Journal

KEPT = tuple(field.name for field in fields(Answer) if field.name not in ("key", "replayed"))
Line = tuple[dict[str, Any], "asyncio.Future[None]"]


class Store:
    """Answers by request key: those of the file, and those ``recorded`` by earlier runs, which are only read.

    Raises UserError ROWS-00x and INSTRUCT-028 for a line that is no answer.
    """

    def __init__(self, path: Path, recorded: Iterable[Path] = ()) -> None:
        self._answers: dict[str, Answer] = {}
        for file in recorded:
            for line, row in read_rows(file, STAGE):
                self._take(row, file, line)
        self._journal = Journal(path)
        self.own: dict[str, Answer] = {}
        """Those of the file itself, in its order."""
        for line, row in self._journal.rows():
            answer = self._take(row, path, line)
            self.own[answer.key] = answer
        self._waiting: list[Line] = []
        self._writer: asyncio.Task[None] | None = None

    def get(self, key: str) -> Answer | None:
        """What was answered to that request, whenever it was."""
        return self._answers.get(key)

    def __len__(self) -> int:
        return len(self._answers)

    async def keep(self, ask: Ask, answer: Answer) -> None:
        """Return when the answer is on the disk. Answers that come together share one fsync."""
        on_disk = asyncio.get_running_loop().create_future()
        said = {name: getattr(answer, name) for name in KEPT}
        self._waiting.append(({"key": answer.key, "ask": vars(ask), "answer": said}, on_disk))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await on_disk
        self._answers[answer.key] = answer

    async def _write(self) -> None:
        while self._waiting:
            lines, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._put, [row for row, _ in lines])
            except OSError as error:
                for _, on_disk in lines:
                    if not on_disk.done():
                        on_disk.set_exception(error)
                continue
            for _, on_disk in lines:
                if not on_disk.done():
                    on_disk.set_result(None)

    def _put(self, rows: list[dict[str, Any]]) -> None:
        self._journal.append(rows)
        self._journal.sync()

    def close(self) -> None:
        self._journal.close()

    def _take(self, row: dict[str, Any], file: Path, line: int) -> Answer:
        try:
            answer = Answer(key=row["key"], **row["answer"])
            texts = (answer.key, answer.text, answer.finish_reason)
            counts = (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens)
            whole = all(isinstance(text, str) for text in texts) and all(isinstance(count, int) for count in counts)
        except (KeyError, TypeError):  # a name that no answer has, or one that is missing
            whole = False
        if not whole:
            raise refuse("INSTRUCT-028", stage=STAGE, file=file, line=line)
        self._answers[answer.key] = answer
        return answer


def again(answer: Answer) -> Answer:
    """The same, said to somebody who did not have to pay for it."""
    return replace(answer, replayed=True)
