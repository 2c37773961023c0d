"""A model behind OpenAI's /v1/completions: what it says and what log-probabilities it gives, by token ids."""

import os
from collections.abc import Sequence
from typing import Any

import httpx

from easyllm.core.errors import UserError, refuse
from easyllm.core.examples import IGNORED, Example
from easyllm.core.progress import Progress
from easyllm.evaluate.config import Endpoint
from easyllm.evaluate.speakers import Pair, until


class Served:
    """A server, asked one request after another. Prompts are token ids, so nothing depends on its tokenizer."""

    def __init__(self, endpoint: Endpoint, ends: list[int], stage: str) -> None:
        self._endpoint, self._ends, self._stage = endpoint, ends, stage
        key = os.environ.get(endpoint.key_variable) if endpoint.key_variable else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=endpoint.timeout_seconds)

    def close(self) -> None:
        self._client.close()

    def require(self) -> None:
        """One small request, before any model is loaded. Raises UserError EVAL-016 or EVAL-017."""
        self._scored([self._ends[0], self._ends[0]])
        self._said([self._ends[0]], 1)

    def loss(self, examples: Sequence[Example], bar: Progress) -> float:
        total = 0.0
        for example in examples:
            values, _ = self._scored(example.ids)
            total -= sum(value for value, label in zip(values, example.labels, strict=True) if label != IGNORED)
            bar.advance()
        return total

    def score(self, pairs: Sequence[Pair], bar: Progress) -> list[tuple[float, bool]]:
        found = []
        for given, follows in pairs:
            values, likeliest = self._scored([*given, *follows])
            found.append((sum(values[len(given) :]), all(likeliest[len(given) :])))
            bar.advance()
        return found

    def say(self, prompts: Sequence[list[int]], longest: int, bar: Progress) -> list[list[int]]:
        found = []
        for ids in prompts:
            found.append(until(self._said(ids, longest), self._ends))
            bar.advance()
        return found

    def _said(self, ids: list[int], longest: int) -> list[int]:
        choice = self._ask({"prompt": ids, "max_tokens": longest, "return_token_ids": True})
        tokens = choice.get("token_ids")
        if not isinstance(tokens, list):
            raise self._lacks("token_ids")
        return tokens

    def _scored(self, ids: list[int]) -> tuple[list[float], list[bool]]:
        """(log-probability, whether it was the likeliest) of each token; the first one's are 0 and True."""
        choice = self._ask({"prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 1})
        found = choice.get("logprobs") or {}
        values, tops = found.get("token_logprobs"), found.get("top_logprobs")
        if not isinstance(values, list) or not isinstance(tops, list) or len(values) < len(ids):
            raise self._lacks("echo, logprobs")
        pairs = list(zip(values, tops, strict=True))[1 : len(ids)]  # the last one is the token that had to be made
        return [0.0, *[value for value, _ in pairs]], [True, *[value >= max(top.values()) for value, top in pairs]]

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        where = f"{self._endpoint.base_url.rstrip('/')}/completions"
        named = {"model": self._endpoint.model} if self._endpoint.model else {}
        try:
            reply = self._client.post(where, json={**body, **named, "temperature": 0})
        except httpx.HTTPError as error:
            raise self._silent(str(error) or type(error).__name__) from error
        try:
            found = reply.json()
        except ValueError as error:
            raise self._silent(f"HTTP {reply.status_code}") from error
        if reply.status_code != 200:
            told = found.get("error") if isinstance(found, dict) else None
            told = told.get("message") if isinstance(told, dict) else told
            raise self._silent(f"HTTP {reply.status_code}: {told}")
        choices = found.get("choices") if isinstance(found, dict) else None
        if not isinstance(choices, list) or not choices:
            raise self._lacks("choices")
        return dict(choices[0])

    def _silent(self, reason: str) -> UserError:
        url = self._endpoint.base_url
        return refuse("EVAL-016", stage=self._stage, key="evaluate.endpoint", url=url, reason=reason)

    def _lacks(self, what: str) -> UserError:
        url = self._endpoint.base_url
        return refuse("EVAL-017", stage=self._stage, key="evaluate.endpoint", url=url, what=what)
