"""The remote engine: a server such as vLLM generates, and everything else stays as with the embedded one."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from easyllm.core.errors import UserError
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.serve.answering import ModelVoice
from easyllm.serve.contract import Abilities, EngineFailed, Loaded, Remote, Sampling, Scored, Token
from easyllm.serve.engines.introduction import introduce
from easyllm.serve.engines.remote_abilities import find_abilities
from easyllm.serve.engines.upstream import TOO_MANY_REQUESTS, Upstream
from easyllm.serve.engines.wire import BAD_GATEWAY, UNPROCESSABLE, Unfit, request_body
from easyllm.serve.limits import Limits
from easyllm.serve.words import default_sampling, load_words, warm_up_prompts

LOOK_EVERY_SECONDS = 2.0
NOT_FOUND = 404
REFUSALS = (400, UNPROCESSABLE)


def load_remote(directory: Path, name: str, limits: Limits, remote: Remote) -> Loaded:
    """Tokenizer and template of ``directory``, the engine at ``remote``; returns when that has shown that it fits.

    Waits for a server that is not there yet. Raises UserError SERVE-002 to SERVE-004 for the directory and
    SERVE-033 to SERVE-036 for the server.
    """
    upstream = Upstream(remote)
    tokenizer, given, ends = load_words(directory)
    engine = RemoteEngine(upstream, name, tokenizer, ends, limits)
    engine.wait_for_upstream()
    return Loaded(ModelVoice(engine, tokenizer, ends), ends, None, None, default_sampling(given))


class RemoteEngine:
    """Asks ``upstream`` for tokens, and knows at any time whether it can be asked."""

    def __init__(self, upstream: Upstream, name: str, tokenizer: Any, ends: list[int], limits: Limits) -> None:
        self._upstream = upstream
        self._name = name
        self._tokenizer = tokenizer
        self._ends = ends
        self._limits = limits
        self._prompts = warm_up_prompts(tokenizer, limits)
        self._model = ""
        """What the upstream calls the model."""
        self._abilities = Abilities()
        self._trouble: str | None = say("upstream_away")
        self.restarts = -1  # the first meeting is no restart
        self._running = 0
        self._stopped = False
        self._look_now = threading.Event()

    @property
    def trouble(self) -> str | None:
        return self._trouble

    @property
    def running(self) -> int:
        """Requests it still works on."""
        return self._running

    @property
    def abilities(self) -> Abilities:
        """What the upstream has shown when it introduced itself."""
        return self._abilities

    async def score(self, ids: list[int], likeliest: int, adapter: str | None = None) -> list[Scored]:
        self._running += 1
        try:
            return await self._upstream.scores(self._model, ids, likeliest)
        except EngineFailed as error:
            self._note_failure(error)
            raise
        finally:
            self._running -= 1

    async def generate(
        self, ids: list[int], max_new_tokens: int, sampling: Sampling, adapter: str | None = None
    ) -> AsyncGenerator[Token, None]:
        body = request_body(self._model, ids, max_new_tokens, sampling, self._ends)
        given = 0
        self._running += 1
        try:
            async with aclosing(self._upstream.events(body)) as events:
                async for event in events:
                    for token in event.tokens:
                        given += 1
                        yield token
                        if token.id in self._ends or given == max_new_tokens:
                            return
            raise EngineFailed(say("upstream_cut"), BAD_GATEWAY)
        except EngineFailed as error:
            if sampling.grammar and isinstance(error, Unfit) and error.its_status in REFUSALS:
                # Without a grammar it never refuses what our routes let through: this one it cannot keep.
                raise EngineFailed(f"the grammar cannot be used: {error.reason}", UNPROCESSABLE) from error
            self._note_failure(error)
            raise
        finally:
            self._running -= 1

    def _note_failure(self, error: EngineFailed) -> None:
        if isinstance(error, Unfit) and error.its_status == NOT_FOUND:
            self._lose(error.reason)  # another model stands there now: it has to introduce itself first
        if error.status != TOO_MANY_REQUESTS:
            self._look_now.set()

    def wait_for_upstream(self) -> None:
        """Return once it has shown that it fits; from then on a thread watches it. Raises UserError where it cannot."""
        told = None
        while not self._stopped:
            try:
                self._meet()
                break
            except EngineFailed as error:
                if str(error) != told:
                    told = str(error)
                    note(say("serve_upstream_waiting", url=self._upstream.url, reason=told))
                self._look_now.wait(LOOK_EVERY_SECONDS)
        threading.Thread(target=self._watch, name="watch-upstream", daemon=True).start()

    def _meet(self) -> None:
        """Raises EngineFailed where it is not ready and UserError where it does not fit."""
        self._model, self._abilities = asyncio.run(self._introduced())
        self._trouble = None
        self.restarts += 1
        note(say("serve_upstream_here", url=self._upstream.url, model=self._model))
        shown = asdict(self._abilities)
        lacking = ", ".join(name for name, has in shown.items() if not has) or "-"
        having = ", ".join(name for name, has in shown.items() if has) or "-"
        note(say("serve_upstream_abilities", having=having, lacking=lacking))

    async def _introduced(self) -> tuple[str, Abilities]:
        """(the model to ask for, what the server can do with it)."""
        model = await introduce(
            self._upstream, self._name, self._tokenizer, self._ends, self._limits, self._prompts
        )  # fmt: skip
        prompt = self._prompts[0]
        return model, await find_abilities(self._upstream, model, self._tokenizer, self._ends, prompt)

    def _lose(self, reason: str) -> None:
        if self._trouble is None:
            note(say("serve_upstream_lost", url=self._upstream.url, reason=reason))
        self._trouble = say("upstream_away")

    def _watch(self) -> None:
        """Look after the upstream until the end; one that comes back has to show anew that it fits."""
        told = None
        while True:
            self._look_now.wait(LOOK_EVERY_SECONDS)
            self._look_now.clear()
            if self._stopped:
                return
            if self._trouble is None:
                reason = self._upstream.unwell()
                if reason:
                    self._lose(reason)
                continue
            try:
                self._meet()
                told = None
            except EngineFailed:
                pass  # it has been told that it is away
            except UserError as error:  # another server stands there now
                if str(error) != told:
                    told = str(error)
                    note(told)

    def stop(self) -> None:
        self._stopped = True
        self._look_now.set()
