"""The server behind the remote engine, over its OpenAI API: which model it has, and token ids for token ids."""

import json
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any

import httpx

from easyllm.core.errors import refuse
from easyllm.core.keys import key_to_send
from easyllm.core.messages import say
from easyllm.serve.contract import EngineFailed, Remote, Scored
from easyllm.serve.engines.wire import BAD_GATEWAY, Event, Unfit, event_of, score_body, scores_of
from easyllm.serve.sse import data_of

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 300.0
"""The longest wait for the next token: a prompt may stand in a long queue, and kernels compile at the first one."""
LOOK_SECONDS = 10.0
"""The longest wait for an answer that costs no computing."""
REASON_CHARACTERS = 500
TOO_MANY_REQUESTS, UNAVAILABLE = 429, 503


class Upstream:
    """An OpenAI-compatible server that takes a prompt as token ids and can return the answer's ids, as vLLM does."""

    def __init__(self, remote: Remote) -> None:
        self.url = remote.url.rstrip("/")
        key = key_of(remote.key_variable)
        # No proxy and no netrc from the environment: an engine is a neighbour, and its key is the one we were given.
        self._options: dict[str, Any] = {
            "trust_env": False,
            "verify": ssl.create_default_context(),  # the system's certificates, a company's own among them
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
        }
        self._key = key

    def models(self) -> list[tuple[str, int | None]]:
        """(id, tokens it takes at most, where it says so, as vLLM does) of each model in /v1/models.

        Raises EngineFailed where it does not answer and Unfit where it refuses.
        """
        with self._told_plainly():
            answer = httpx.get(f"{self.url}/models", timeout=LOOK_SECONDS, **self._options)
            self._require_ok(answer)
            listed = [(str(card["id"]), card.get("max_model_len")) for card in answer.json()["data"]]
            return [(name, None if longest is None else int(longest)) for name, longest in listed]

    def unwell(self) -> str | None:
        """Why it cannot be asked now; None when it can. An answer that says nothing of health is a sign of life."""
        try:
            with self._told_plainly():
                answer = httpx.get(f"{self.url.removesuffix('/v1')}/health", timeout=LOOK_SECONDS, **self._options)
        except EngineFailed as error:
            return str(error)
        return say("upstream_unwell", status=answer.status_code) if answer.status_code >= 500 else None

    async def events(self, body: dict[str, Any]) -> AsyncGenerator[Event, None]:
        """The events of a streamed completion. Closing it closes the connection, at which the server stops working.

        A connection of its own for each request: then closing it cancels this request and no other.
        """
        timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
        with self._told_plainly():
            async with (
                httpx.AsyncClient(timeout=timeout, **self._options) as client,
                client.stream("POST", f"{self.url}/completions", json=body | {"stream": True}) as answer,
            ):
                if answer.status_code != httpx.codes.OK:
                    await answer.aread()
                self._require_ok(answer)
                async for text in data_of(answer.aiter_bytes()):
                    if text == "[DONE]":
                        return
                    chunk = json.loads(text)
                    if "error" in chunk or chunk.get("object") == "error":
                        raise EngineFailed(say("upstream_failed", reason=self._reason(chunk)), BAD_GATEWAY)
                    yield event_of(chunk, body["logprobs"])

    async def scores(self, model: str, ids: list[int], likeliest: int) -> list[Scored]:
        """Log-probabilities of ``ids``, and of the likeliest tokens at their places."""
        timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
        with self._told_plainly():
            async with httpx.AsyncClient(timeout=timeout, **self._options) as client:
                body = score_body(model, ids, likeliest)
                answer = await client.post(f"{self.url}/completions", json=body)
            self._require_ok(answer)
            return scores_of(answer.json(), ids, likeliest)

    def _require_ok(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status == httpx.codes.OK:
            return
        try:
            reason = self._reason(answer.json())
        except ValueError:
            reason = answer.reason_phrase
        if status == TOO_MANY_REQUESTS:
            raise EngineFailed("Model is overloaded", TOO_MANY_REQUESTS)
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            away = status == UNAVAILABLE
            told = say("upstream_status", status=status, reason=reason)
            raise EngineFailed(told, status if away else BAD_GATEWAY)
        raise Unfit(say("unfit_status", status=status, reason=reason), status)

    def _reason(self, body: Any) -> str:
        """Its own words for what is wrong; our key is cut out of them, should it say it back."""
        told = body.get("error", body) if isinstance(body, dict) else body
        if isinstance(told, dict):
            told = told.get("message") or told.get("detail") or told
        text = " ".join(str(told).split())
        return (text.replace(self._key, "***") if self._key else text)[:REASON_CHARACTERS]

    @contextmanager
    def _told_plainly(self) -> Generator[None, None, None]:
        """What goes wrong with connection or content, as EngineFailed."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            reason = str(error) or type(error).__name__
            raise EngineFailed(say("upstream_no_answer", reason=reason), UNAVAILABLE) from error
        except httpx.ReadTimeout as error:
            raise EngineFailed(say("upstream_silent"), BAD_GATEWAY) from error
        except httpx.HTTPError as error:
            raise EngineFailed(say("upstream_broke_off"), BAD_GATEWAY) from error
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise Unfit(say("unfit_gibberish")) from error


def key_of(variable: str | None) -> str | None:
    """The API key in the environment variable of that name. Raises UserError SERVE-033 where it holds none to send."""
    if variable is None:
        return None
    try:
        return key_to_send(variable)
    except ValueError as error:
        told = {"variable": variable, "reason": str(error)}
        raise refuse("SERVE-033", stage="serve", key="serve.remote_key_variable", **told) from error
