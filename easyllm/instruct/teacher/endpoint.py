"""One attempt at one request: the answer, or what went wrong and whether it is worth another attempt."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from easyllm.core.addresses import is_loopback
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.instruct.ask import Ask
from easyllm.instruct.config import Teacher

if TYPE_CHECKING:
    import openai

REASON_CHARACTERS = 300
BAD, UNAUTHORISED, FORBIDDEN, NOT_FOUND, UNPROCESSABLE, TOO_MANY, INTERNAL = 400, 401, 403, 404, 422, 429, 500
WORTH_ANOTHER = (408, 409, 425)
"""Beside 429 and 5xx: a proxy that lost patience, a conflict, too early."""
NO_SCHEMA = ("response_format", "json_schema", "not supported", "unsupported", "not_supported")
"""How endpoints say that they know no structured output."""
FILTERED = ("content_filter", "content_policy_violation")


@dataclass(frozen=True)
class Said:
    """An answer as it came."""

    text: str
    finish_reason: str
    structured: bool
    prompt_tokens: int | None = None
    """None where the endpoint does not tell."""
    completion_tokens: int | None = None
    cached_tokens: int = 0


@dataclass(frozen=True)
class Failure:
    """No answer."""

    outcome: str
    """For the ledger: an HTTP status, timeout, unreachable, connection, cut or malformed."""
    reason: str
    """The endpoint's own words; a key in them is cut out."""
    again: bool = False
    """Whether another attempt may help."""
    pause: float | None = None
    """Seconds that the endpoint asks to wait before it."""
    adapted: bool = False
    """The next attempt says it differently, for this endpoint does not know something; it is no retry."""


class Endpoint:
    """An OpenAI-compatible endpoint, and what it has turned out not to know."""

    def __init__(self, settings: Teacher, model: str, key: str | None, find: Callable[[], Awaitable[str]]) -> None:
        self._settings, self._model, self._key, self._find = settings, model, key, find
        self._client: openai.AsyncOpenAI | None = None
        self._opening = asyncio.Lock()
        self._structured = settings.structured == "auto"
        self._length_name = "max_tokens"
        self._seeded = settings.local is not None

    async def ready(self) -> None:
        """Return when it can be asked; a local one is started here. Raises StageFailed where that fails."""
        async with self._opening:
            if self._client is None:
                self._client = client_of(await self._find(), self._key, self._settings.patience_seconds)

    def body(self, ask: Ask, key: str) -> dict[str, Any]:
        """What is sent: with the schema, or with the form in words."""
        messages = [dict(message) for message in ask.messages]
        body: dict[str, Any] = {"model": self._model, "messages": messages}
        if ask.schema is not None and self._structured:
            name = str(ask.schema.get("title", "answer"))
            schema = {"name": name, "schema": ask.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif ask.form:
            messages[-1]["content"] += f"\n\n{ask.form}"
        body |= {"temperature": ask.temperature, "top_p": ask.top_p, self._length_name: ask.max_tokens}
        if self._seeded:  # our own server draws the same tokens from the same seed; others may refuse the field
            body["seed"] = int(key[:7], 16)
        return body

    async def send(self, body: dict[str, Any], key: str) -> Said | Failure:
        """One attempt. An endpoint that knows idempotency keys answers a second one again without a second bill."""
        import openai

        assert self._client is not None, "ready() comes first"
        # Not chat.completions.create: what it does to the body before it sends it is a quarter of all our CPU time.
        how: Any = {"headers": {"Idempotency-Key": self._idempotency_key(body, key)}}
        try:
            async with asyncio.timeout(self._settings.patience_seconds):
                reply = await self._client.post("/chat/completions", cast_to=object, body=body, options=how)
        except (TimeoutError, openai.APITimeoutError) as error:
            if _cause(error) == "ConnectTimeout":
                return Failure("unreachable", _cause(error), again=True)
            return Failure("timeout", say("teacher_silent", seconds=self._settings.patience_seconds), again=True)
        except openai.APIConnectionError as error:
            return self._broken_off(error)
        except openai.APIStatusError as error:
            return self._refused(error, body)
        except ValueError:  # not JSON, though it says so
            return Failure("cut", say("teacher_cut"), again=True)
        try:
            return said_by(reply, "response_format" in body)
        except (KeyError, TypeError, IndexError, AttributeError):
            return Failure("malformed", self._clean(str(reply)), again=True)

    def _idempotency_key(self, body: dict[str, Any], key: str) -> str:
        """The request's own; of one that is said otherwise another, for a key stands for one body."""
        words = "response_format" not in body and self._settings.structured == "auto"
        return key + ("-words" if words else "") + ("-completion" if "max_completion_tokens" in body else "")

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def _broken_off(self, error: "openai.APIConnectionError") -> Failure:
        cause = _cause(error)
        told = self._clean(str(error.__cause__ or error)) or cause
        if cause in ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"):
            return Failure("unreachable", told, again=True)
        return Failure("cut" if cause == "RemoteProtocolError" else "connection", told, again=True)

    def _refused(self, error: "openai.APIStatusError", body: dict[str, Any]) -> Failure | Said:
        status, reason = error.status_code, self._reason(error)
        told = reason.lower()
        if status in (BAD, UNPROCESSABLE):
            if error.code in FILTERED:
                return Said("", "content_filter", "response_format" in body, 0, 0)
            if self._adapt(told, body):
                return Failure(str(status), reason, again=True, adapted=True)
        quota = error.code == "insufficient_quota"
        again = (status == TOO_MANY and not quota) or status >= INTERNAL or status in WORTH_ANOTHER
        return Failure(str(status), reason, again, pause_asked(error.response.headers))

    def _adapt(self, told: str, body: dict[str, Any]) -> bool:
        """Whether ``told`` names something that can be left out or said otherwise from now on."""
        if self._length_name in body and self._length_name == "max_tokens" and "max_completion_tokens" in told:
            self._length_name = "max_completion_tokens"
            return True
        if "max_tokens" in body and self._length_name != "max_tokens" and "max_completion_tokens" in told:
            return True  # it was under way when another one was told
        if "response_format" in body and any(word in told for word in NO_SCHEMA):
            if self._structured:
                note(say("teacher_plain"))
            self._structured = False
            return True
        return False

    def _reason(self, error: "openai.APIStatusError") -> str:
        told: Any = error.body
        if isinstance(told, dict):
            told = told.get("message") or told.get("detail") or told.get("error") or told
        if isinstance(told, dict):
            told = told.get("message") or told
        return self._clean(str(told or error.response.reason_phrase or error.status_code))

    def _clean(self, text: str) -> str:
        text = " ".join(text.split())
        return (text.replace(self._key, "***") if self._key else text)[:REASON_CHARACTERS]


def client_of(url: str, key: str | None, timeout_seconds: float) -> "openai.AsyncOpenAI":
    """A client that sends once and asks no proxy about loopback."""
    import openai

    http = openai.DefaultAsyncHttpxClient(trust_env=not is_loopback(urlsplit(url).hostname or ""))
    return openai.AsyncOpenAI(
        base_url=url, api_key=key or "none", http_client=http, timeout=timeout_seconds, max_retries=0
    )  # fmt: skip


def pause_asked(headers: Any) -> float | None:
    """Seconds to wait, by retry-after-ms or retry-after (seconds or a date); None where neither says so."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        given = headers.get("retry-after")
        if given is None:
            return None
        if given.strip().replace(".", "", 1).isdigit():
            return float(given)
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except ValueError:
        return None


def said_by(reply: Any, structured: bool) -> Said:
    """The first choice. Raises KeyError, IndexError, TypeError or AttributeError where it is no chat completion."""
    choice = reply["choices"][0]
    text = choice["message"].get("content") or choice["message"].get("refusal") or ""
    usage = reply.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Said(
        _whole(str(text)), str(choice.get("finish_reason") or "stop"), structured,
        usage.get("prompt_tokens"), usage.get("completion_tokens"), int(details.get("cached_tokens") or 0),
    )  # fmt: skip


def _whole(text: str) -> str:
    """Half a surrogate pair, which JSON can say and UTF-8 cannot, becomes the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cause(error: BaseException) -> str:
    """The name of the transport's error: the openai client has changed its HTTP library before, and they kept names."""
    return type(error.__cause__ or error).__name__
