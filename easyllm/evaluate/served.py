"""A model behind OpenAI's /v1/completions: what it says and what log-probabilities it gives, by token ids."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from easyllm.core.addresses import is_loopback
from easyllm.core.errors import UserError, refuse
from easyllm.core.examples import IGNORED, Example
from easyllm.core.progress import Progress
from easyllm.evaluate.config import Endpoint
from easyllm.evaluate.speakers import Pair, until


class Served:
    """A server, asked one request after another. Prompts are token ids, so nothing depends on its tokenizer."""

    def __init__(self, endpoint: Endpoint, ends: list[int], stage: str) -> None:
        self._endpoint, self._ends, self._stage = endpoint, ends, stage
        self._key = endpoint.key()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        # A proxy that the environment names cannot reach this machine's own addresses.
        proxies = not is_loopback(urlsplit(endpoint.base_url).hostname or "")
        self._client = httpx.Client(headers=headers, timeout=endpoint.timeout_seconds, trust_env=proxies)

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
        if not isinstance(tokens, list) or not all(_whole_number(token) for token in tokens):
            raise self._lacks("token_ids")
        return tokens

    def _scored(self, ids: list[int]) -> tuple[list[float], list[bool]]:
        """(log-probability, whether it was the likeliest) of each token; the first one's are 0 and True."""
        choice = self._ask({"prompt": ids, "max_tokens": 1, "echo": True, "logprobs": 1})
        found = choice.get("logprobs")
        found = found if isinstance(found, dict) else {}
        values, tops = found.get("token_logprobs"), found.get("top_logprobs")
        if not isinstance(values, list) or not isinstance(tops, list) or min(len(values), len(tops)) < len(ids):
            raise self._lacks("echo, logprobs")
        # From the second, since nothing stands before the first; the one after the last had to be made.
        values, tops = values[1 : len(ids)], tops[1 : len(ids)]
        if not all(_number(value) for value in values) or not all(_named_numbers(top) for top in tops):
            raise self._lacks("echo, logprobs")
        likeliest = [value >= max(top.values()) for value, top in zip(values, tops, strict=True)]
        return [0.0, *values], [True, *likeliest]

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
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise self._lacks("choices")
        return dict(choices[0])

    def _silent(self, reason: str) -> UserError:
        url = self._endpoint.base_url
        reason = reason.replace(self._key, "***") if self._key else reason  # some servers repeat what they refuse
        return refuse("EVAL-016", stage=self._stage, key="evaluate.endpoint", url=url, reason=reason)

    def _lacks(self, what: str) -> UserError:
        url = self._endpoint.base_url
        return refuse("EVAL-017", stage=self._stage, key="evaluate.endpoint", url=url, what=what)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _named_numbers(values: Any) -> bool:
    return isinstance(values, Mapping) and bool(values) and all(_number(value) for value in values.values())
