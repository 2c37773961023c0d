"""A model that easyllm serves itself on loopback, for as long as it is asked."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

from easyllm.core import servers
from easyllm.core.errors import Problem, StageFailed, UserError, problem
from easyllm.core.inputs import Input
from easyllm.core.messages import say
from easyllm.core.models import local_model
from easyllm.core.progress import note
from easyllm.instruct.config import Teacher
from easyllm.instruct.teacher.journal import STAGE

NAME = "teacher"
"""What the server calls the model."""
PROMPT_TOKENS = 3072
"""Room for a prompt beside the longest answer, where the model has it."""
DRAIN_SECONDS = 5


class LocalTeacher:
    """Started when it is first asked for; a run whose answers are all recorded never starts it."""

    def __init__(self, source: Input, cache_dir: Path, settings: Teacher) -> None:
        self._source, self._cache_dir, self._settings = source, cache_dir, settings
        self._process: subprocess.Popen[str] | None = None
        self._starting = threading.Lock()
        self._closed = False

    @property
    def identity(self) -> str:
        """Names the teacher in the keys of requests: by its content, wherever that lies."""
        return f"local:{str(self._source.digest)[:16]}"

    async def url(self) -> str:
        """The base address, once the server is healthy. Raises UserError and StageFailed where it cannot be."""
        return f"{await asyncio.to_thread(self._start)}/v1"

    def _start(self) -> str:
        model = local_model(self._source, self._cache_dir, STAGE)
        found = room_problems(self._settings, model)
        if found:
            raise UserError(*found)
        with self._starting:
            if self._closed:  # interrupted while the model was made ready
                raise StageFailed("the teacher was stopped before it had started")
            note(say("teacher_starts", ref=self._source.ref))
            self._process = servers.start(server_command(model, self._settings))
        return servers.healthy_url(self._process)

    async def close(self) -> None:
        """Stop it; nothing of it is left to lose."""
        with self._starting:
            self._closed = True
        if self._process is not None:
            await asyncio.to_thread(servers.stop, self._process, DRAIN_SECONDS, must_be_clean=False)


def total_tokens(settings: Teacher, positions: int | None) -> int:
    """Prompt and answer together, at most."""
    wanted = PROMPT_TOKENS + settings.max_tokens
    return min(wanted, positions) if positions else wanted


def room_problems(settings: Teacher, model: Path) -> list[Problem]:
    """INSTRUCT-036: the longest answer fills all that the model can take, and leaves nothing for a prompt."""
    positions = positions_of(model)
    if positions is None or settings.max_tokens <= positions // 2:
        return []
    key = "instruct.teacher.max_tokens"
    return [problem("INSTRUCT-036", stage=STAGE, key=key, asked=settings.max_tokens, most=positions // 2,
                    positions=positions)]  # fmt: skip


def positions_of(model: Path) -> int | None:
    """The longest sequence that the model of a directory was made for; None where it sets no limit."""
    config = json.loads((model / "config.json").read_text("utf-8"))
    value = config.get("max_position_embeddings") or config.get("n_positions")
    return int(value) if value else None


def server_command(model: Path, settings: Teacher) -> list[str]:
    """The exact command line: a free loopback port, and as many requests at once as we send."""
    total = total_tokens(settings, positions_of(model))
    return [
        sys.executable, "-m", "easyllm.serve.server", "--model", str(model), "--name", NAME, "--port", "0",
        "--max-total-tokens", str(total), "--max-input-tokens", str(total - 1),
        "--max-concurrent-requests", str(settings.concurrency), "--drain-seconds", str(DRAIN_SECONDS),
        "--die-with-parent",
    ]  # fmt: skip
