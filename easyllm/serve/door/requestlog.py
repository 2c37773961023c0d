"""The request log: one line of JSON for each request that was answered or refused."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from easyllm.core.errors import refuse
from easyllm.core.inputs import written_path
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.serve.door.accounts import Account

SILENT = ("/health", "/ping", "/metrics")
"""Asked every few seconds by machines, of no interest to anybody later."""


class RequestLog:
    """Writes to ``stderr`` or appends to a file; None writes nothing."""

    def __init__(self, where: str | None) -> None:
        """Raises UserError SERVE-047 where the file cannot be written."""
        self.where = where
        self._file: TextIO | None = None
        self._failing = False
        self.open_again()

    def open_again(self) -> None:
        """Go on in a new file of the same name: the old one may have been moved away."""
        if self.where is None:
            return
        old = self._file
        self._file = sys.stderr if self.where == "stderr" else open_private(written_path(self.where))
        close(old)

    def write(self, account: Account) -> None:
        """A disk that is full must not take the answers with it: that is said once, and again after it has worked."""
        if self._file is None or account.route in SILENT:
            return
        try:
            self._file.write(json.dumps(entry(account), ensure_ascii=False) + "\n")
            self._file.flush()
            self._failing = False
        except OSError as error:
            if not self._failing:
                note(say("serve_log_fails", path=self.where, reason=error.strerror))
            self._failing = True

    def close(self) -> None:
        close(self._file)


def close(file: TextIO | None) -> None:
    """A line that a full disk did not take is tried once more here; it has been told, and must not end the server."""
    if file not in (None, sys.stderr):
        with suppress(OSError):
            file.close()


def open_private(path: Path) -> TextIO:
    """The file, to append to; a new one can be read by its owner only, for it may hold what people have written."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8")
    except (OSError, ValueError) as error:  # a NUL in the name is no OSError
        told = {"path": str(path), "reason": getattr(error, "strerror", None) or str(error)}
        raise refuse("SERVE-047", stage="serve", key="serve.request_log", **told) from error


def entry(account: Account) -> dict[str, Any]:
    """The line's fields; ``prompts`` and ``answers`` only where they were kept."""
    found: dict[str, Any] = {
        "time": account.came.isoformat(timespec="milliseconds"),
        "id": account.id,
        "method": account.method,
        "route": account.route,
        "status": account.status,
        "model": account.model,
        "key": account.key,
        "prompt_tokens": account.prompt_tokens,
        "answer_tokens": account.answer_tokens,
        "finish_reason": account.finish,
        "queue_seconds": round(account.queue_seconds, 6),
        "first_token_seconds": None if account.first_token is None else round(account.first_token_seconds or 0.0, 6),
        "total_seconds": round(account.total_seconds, 6),
    }
    return found | (account.words or {})
