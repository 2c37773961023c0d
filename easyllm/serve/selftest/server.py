"""The server under test, over plain HTTP: what it answers, whether that is a refusal, and what it says by default."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx

from easyllm.core.addresses import is_loopback
from easyllm.core.messages import say
from easyllm.serve.selftest.outcome import Broken, NotOffered

ANSWER_SECONDS = 300.0
"""The longest wait for an answer: a large model on CPUs is slow, and its first request may compile kernels."""
CONNECT_SECONDS = 10.0
TOKENS = 24
"""Length of most answers asked for: long enough to differ, short enough for a slow server."""
QUESTION = "Tell me about the sea and a ship in one sentence."
SHOWN_CHARACTERS = 60
UNREADABLE = "\ufffd"
NO_ROUTE = (404, 405, 501)
REFUSED = (400, 422)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True)
class Reply:
    """One answer, read to its end."""

    status: int
    text: str
    headers: httpx.Headers

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    def events(self) -> list[str]:
        """What stands after ``data:`` in each event of a stream."""
        lines = [line for line in self.text.split("\n") if line.startswith("data:")]
        return [line.removeprefix("data:").strip() for line in lines]

    def chunks(self) -> list[dict[str, Any]]:
        """The events that are objects; one that says an error ends the check."""
        found = [json.loads(event) for event in self.events() if event != "[DONE]"]
        for chunk in found:
            if "error" in chunk:
                raise Broken(say("selftest_stream_error", reason=short(json.dumps(chunk, ensure_ascii=False))))
        return found

    @property
    def reason(self) -> str:
        """Its status, with its own words for what is wrong where it has some."""
        return f"{self.status} {short(told(self.text))}".strip()


class Server:
    """A server by its base address, without /v1."""

    def __init__(self, url: str, key: str | None, model: str | None) -> None:
        self.url, self.key = url, key
        self._model = model
        # A proxy for the internet must not stand before this machine's own server. A connection for each request:
        # llama.cpp closes one after a stream without saying so, and the next request on it would be lost.
        self._client = httpx.Client(
            trust_env=not is_loopback(urlsplit(url).hostname or ""),
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def close(self) -> None:
        self._client.close()

    def ask(self, method: str, path: str, body: Any = None, key: str | None = "") -> Reply:
        """One request; ``key`` is the server's own unless another one, or None, is to be tried."""
        answer = self._client.request(method, self.url + path, json=body, headers=self.headers(key))
        return Reply(answer.status_code, answer.text, answer.headers)

    def headers(self, key: str | None = "") -> dict[str, str]:
        key = self.key if key == "" else key
        return {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str) -> Reply:
        """Its answer. Raises NotOffered where there is no such route, Broken where it is anything else but 200."""
        return self.good(self.ask("GET", path))

    def post(self, path: str, body: Any, optional: bool = False) -> Reply:
        """Its answer with 200; a refusal of what is ``optional`` means that it is not offered."""
        return self.good(self.ask("POST", path, body), optional)

    def good(self, reply: Reply, optional: bool = False) -> Reply:
        if reply.status in NO_ROUTE or (optional and reply.status in REFUSED):
            raise NotOffered(reply.reason)
        if reply.status != httpx.codes.OK:
            raise Broken(reply.reason)
        return reply

    def chat(self, optional: bool = False, **settings: Any) -> Reply:
        """A greedy answer to QUESTION of at most TOKENS tokens, unless ``settings`` say otherwise."""
        asked = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": TOKENS}
        return self.post(CHAT, {"model": self.model} | asked | settings, optional)

    def cut_off(self, body: dict[str, Any]) -> None:
        """Begin to read a streamed chat answer, and hang up."""
        hello = {"model": self.model, "stream": True} | body
        with self._client.stream("POST", self.url + CHAT, json=hello, headers=self.headers()) as answer:
            if answer.status_code != httpx.codes.OK:
                answer.read()
                self.good(Reply(answer.status_code, answer.text, answer.headers))
            next(answer.iter_lines(), None)

    @cached_property
    def models(self) -> list[str]:
        """The ids in /v1/models; none where it has no such route, or something else than a list of cards there."""
        reply = self.ask("GET", "/v1/models")
        try:
            found = reply.json if reply.status == httpx.codes.OK else {}
        except ValueError:
            return []
        cards = found.get("data") if isinstance(found, dict) else None
        listed = cards if isinstance(cards, list) else []
        return [str(card["id"]) for card in listed if isinstance(card, dict) and "id" in card]

    @property
    def model(self) -> str:
        """What to ask for: what the user named, else the first it lists; ``tgi`` is text-generation-inference's own."""
        return self._model or next(iter(self.models), "tgi")

    @cached_property
    def greedy(self) -> dict[str, Any]:
        """The greedy answer that others are held against: the whole body of /v1/chat/completions."""
        body: dict[str, Any] = self.chat().json
        return body

    @cached_property
    def info(self) -> dict[str, Any]:
        """TGI's /info; empty where it has none."""
        reply = self.ask("GET", "/info")
        try:
            found = reply.json if reply.status == httpx.codes.OK else {}
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def longest_prompt(self) -> int | None:
        """Tokens of the longest prompt, as /info (TGI, ours) or the model's card (vLLM) says."""
        cards = self.ask("GET", "/v1/models")
        listed = cards.json.get("data") or [] if cards.status == httpx.codes.OK else []
        stated = [self.info.get("max_input_tokens"), *[card.get("max_model_len") for card in listed]]
        return next((int(value) for value in stated if value), None)


def told(text: str) -> str:
    """The words for what is wrong in an error's body, whatever its shape."""
    try:
        body = json.loads(text)
    except ValueError:
        return text
    found = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(found, dict):
        found = found.get("message") or found.get("detail") or found
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def short(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """Text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def quoted(text: str) -> str:
    """The beginning of an answer; that it is empty is seen too."""
    return f'"{short(text)}"'


def content(body: dict[str, Any]) -> str:
    """The text of a whole chat answer."""
    return body["choices"][0]["message"]["content"] or ""


def streamed(reply: Reply) -> list[str]:
    """The pieces of text of a streamed chat answer."""
    choices = [choice for chunk in reply.chunks() for choice in chunk.get("choices") or []]
    return [text for choice in choices if (text := (choice.get("delta") or {}).get("content"))]


def finish(reply: Reply) -> str | None:
    """Why a streamed answer ended."""
    choices = [choice for chunk in reply.chunks() for choice in chunk.get("choices") or []]
    return next((choice["finish_reason"] for choice in choices if choice.get("finish_reason")), None)


def same(one: str, other: str, what: str, against: str) -> None:
    """Raises Broken where two texts that must be one differ.

    A character that the end of an answer cuts in half may be shown or not: both are honest.
    """
    if one.rstrip(UNREADABLE) != other.rstrip(UNREADABLE):
        raise Broken(say("selftest_differ", what=what, one=short(one, 40), against=against, other=short(other, 40)))
