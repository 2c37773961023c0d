"""A conversation with one server in the terminal: what was said, who is asked, and how."""

import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from easyllm.core.addresses import is_loopback
from easyllm.core.errors import refuse
from easyllm.core.keys import key_to_send
from easyllm.core.messages import say

USUAL_KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Turn:
    """A prompt and what each model answered."""

    prompt: str
    answers: dict[str, str] = field(default_factory=dict)

    def answer_for(self, model: str) -> str:
        """In the words of ``model``, or of whoever answered where it was not asked."""
        return self.answers.get(model) or next(iter(self.answers.values()))


@dataclass(frozen=True)
class Question:
    """A prompt to be asked now, in place of turn ``at`` and all that followed; None asks it after all turns."""

    prompt: str
    at: int | None = None


class Talk:
    """A conversation with the models of one server. Raises UserError CHAT-001, CHAT-003 and CHAT-004."""

    def __init__(self, url: str, system: str | None, settings: dict[str, Any], key_variable: str | None = None) -> None:
        import httpx
        import openai

        key = key_of(key_variable)
        try:
            # A proxy for the internet must not stand before this machine's own server.
            http = openai.DefaultHttpxClient(trust_env=not is_loopback(urlsplit(url).hostname or ""))
            self._client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, http_client=http, timeout=600.0)
            self.models = ids_of(self._client.models.list())
            self.model = self.models[0]
        except openai.AuthenticationError as error:
            raise refuse("CHAT-004", url=url, reason=reason_of(error), usual=USUAL_KEY_VARIABLE) from error
        except IndexError as error:
            raise refuse("CHAT-001", url=url, reason=say("unfit_no_model")) from error
        except AttributeError as error:  # the client's own, at a body that is no object
            raise refuse("CHAT-001", url=url, reason=say("unfit_gibberish")) from error
        except (openai.OpenAIError, httpx.InvalidURL, ValueError) as error:
            raise refuse("CHAT-001", url=url, reason=reason_of(error).rstrip(".")) from error
        self.beside: str | None = None
        """The model that answers every prompt too, after the first one."""
        self.system = system or ""
        self.settings = dict(settings)
        """Of the API, by their names there; what is absent is the server's choice."""
        self.turns: list[Turn] = []

    def forget(self) -> None:
        """Begin anew, with the system prompt only."""
        self.turns = []

    def asked(self) -> list[str]:
        """The models that answer, in their order."""
        return [self.model, self.beside] if self.beside else [self.model]

    def messages(self, turns: list[Turn], model: str) -> list[Any]:
        """The turns as ``model`` is told them."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for turn in turns:
            found.append({"role": "user", "content": turn.prompt})
            found.append({"role": "assistant", "content": turn.answer_for(model)})
        return found

    def answer(self, question: Question) -> Generator[tuple[str, str], None, None]:
        """(model, piece of its answer), model after model; its first piece is empty.

        What was said is remembered, also when the reader stops halfway; where nothing was, all stays as it was.
        """
        before = self.turns if question.at is None else self.turns[: question.at]
        answers: dict[str, str] = {}
        try:
            for model in self.asked():
                yield model, ""
                messages = [*self.messages(before, model), {"role": "user", "content": question.prompt}]
                with closing(self._stream(model, messages)) as pieces:
                    for text in pieces:
                        answers[model] = answers.get(model, "") + text
                        yield model, text
        finally:
            if answers:
                self.turns = [*before, Turn(question.prompt, answers)]

    def _stream(self, model: str, messages: list[Any]) -> Generator[str, None, None]:
        """Closing it ends the stream, and with it the work at the server.

        Raises OpenAIError where no answer comes, also where what comes is none.
        """
        import httpx
        import openai

        # As a part of the body: the client's own parameters do not have all that servers take.
        asked: dict[str, Any] = {"model": model, "messages": messages, "extra_body": self.settings}
        stream = self._client.chat.completions.create(**asked, stream=True)
        chunk = None
        try:
            for chunk in stream:
                text = text_of(chunk)
                if text:
                    yield text
        except httpx.HTTPError as error:  # in the middle of a stream the client lets them through
            raise openai.OpenAIError(reason_of(error)) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise openai.OpenAIError(say("unfit_gibberish")) from error
        finally:
            stream.close()
        if chunk is None:  # a web page, say: nothing in it is an event
            raise openai.OpenAIError(say("unfit_gibberish"))


def ids_of(listed: Any) -> list[str]:
    """The models of a list as the client gives it: of anything at all that a web server answers, without looking."""
    cards = getattr(listed, "data", None)
    ids = [getattr(card, "id", None) for card in cards] if isinstance(cards, list) else []
    return [name for name in ids if name and isinstance(name, str)]


def text_of(chunk: Any) -> str:
    """The text in a chunk of a streamed answer. Raises what a chunk of another shape raises."""
    text = (chunk.choices[0].delta.content if chunk.choices else None) or ""
    if not isinstance(text, str):
        raise TypeError(text)
    return text


def key_of(variable: str | None) -> str:
    """The API key in the environment variable of that name; without a name, in the usual one, should it be set.

    Raises UserError CHAT-003 where a named one holds none, or the usual one a key that cannot be sent.
    """
    if variable is None and not os.environ.get(USUAL_KEY_VARIABLE, "").strip():
        return "none"  # the client wants one, and a server without keys does not look at it
    variable = variable or USUAL_KEY_VARIABLE
    try:
        return key_to_send(variable)
    except ValueError as error:
        raise refuse("CHAT-003", variable=variable, reason=str(error)) from error


def trouble(error: Any) -> str:
    """What to tell when no answer came."""
    too_long = getattr(error, "code", None) == "context_length_exceeded"
    return say("chat_full" if too_long else "chat_failed", reason=reason_of(error))


def reason_of(error: Exception) -> str:
    body = getattr(error, "body", None)
    if isinstance(body, dict) and body.get("message"):
        return str(body["message"])
    return str(error).splitlines()[0] if str(error) else type(error).__name__
