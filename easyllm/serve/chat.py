"""Talk to a model in the terminal: streamed, with a memory of the conversation. Piped, one prompt a line."""

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from easyllm.core.addresses import is_loopback
from easyllm.core.artifact import read_manifest
from easyllm.core.errors import refuse
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.core.servers import ServerEnded


def chat(target: str, system: str | None, max_tokens: int, temperature: float) -> int:
    """Talk to the server at URL ``target``, or to a server of our own for the model directory ``target``.

    Exit code 0, or 1 when the server stops answering. Raises UserError CHAT-001 and CHAT-002.
    """
    try:
        with server_for(target) as url:
            talk = Talk(url, system, max_tokens, temperature)
            return in_terminal(talk) if sys.stdin.isatty() else from_lines(talk)
    except ServerEnded as error:
        return error.code  # it has said why itself


@contextmanager
def server_for(target: str) -> Iterator[str]:
    """The address to talk to, for as long as the block lasts."""
    if target.startswith(("http://", "https://")):
        yield target.rstrip("/").removesuffix("/v1")
        return
    path = Path(target).expanduser()
    manifest = read_manifest(path)
    if not (path / "config.json").is_file() or (manifest and manifest.kind != "model"):
        raise refuse("CHAT-002", target=target)
    from easyllm.serve.config import ServeConfig
    from easyllm.serve.process import running_server

    note(say("chat_starting", path=path))
    with running_server(path, path.absolute().name, ServeConfig(max_concurrent_requests=1)) as server:
        yield server.url


class Talk:
    """A conversation with one server."""

    def __init__(self, url: str, system: str | None, max_tokens: int, temperature: float) -> None:
        import openai

        # A proxy for the internet must not stand before this machine's own server.
        http = openai.DefaultHttpxClient(trust_env=not is_loopback(host_of(url)))
        key = os.environ.get("OPENAI_API_KEY", "none")
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, http_client=http, timeout=600.0)
        try:
            self.model = self._client.models.list().data[0].id
        except (openai.OpenAIError, IndexError, ValueError) as error:
            raise refuse("CHAT-001", url=url, reason=reason_of(error)) from error
        self._opening = [{"role": "system", "content": system}] if system else []
        self._messages: list[Any] = list(self._opening)
        self._settings: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}

    def forget(self) -> None:
        """Begin anew, with the system prompt only."""
        self._messages = list(self._opening)

    def answer(self, prompt: str) -> Generator[str, None, None]:
        """The answer in pieces. What was said is remembered, also when the reader stops halfway."""
        messages = [*self._messages, {"role": "user", "content": prompt}]
        stream = self._client.chat.completions.create(
            model=self.model, messages=messages, stream=True, **self._settings
        )
        said = ""
        try:
            for chunk in stream:
                text = chunk.choices[0].delta.content if chunk.choices else None
                if text:
                    said += text
                    yield text
        finally:
            stream.close()
            if said:
                self._messages = [*messages, {"role": "assistant", "content": said}]


def from_lines(talk: Talk) -> int:
    """Every line of stdin is a prompt, every answer goes to stdout. The first failure ends it."""
    import openai

    for line in sys.stdin:
        prompt = line.strip()
        if prompt == "/exit":
            break
        if prompt == "/reset":
            talk.forget()
        elif prompt:
            try:
                for text in talk.answer(prompt):
                    print(text, end="", flush=True)
            except openai.OpenAIError as error:
                note(trouble(error))
                return 1
            print(flush=True)
    return 0


def in_terminal(talk: Talk) -> int:
    """Ask and answer until /exit or Ctrl-D; Ctrl-C stops an answer, not the conversation."""
    import readline  # noqa: F401  gives input() its history and line editing

    from rich.console import Console

    console = Console(highlight=False)
    note(say("chat_hello", model=talk.model))
    while True:
        try:
            prompt = console.input("[bold green]>[/] ").strip()
        except KeyboardInterrupt:
            console.print()
            continue
        except EOFError:
            console.print()
            return 0
        if prompt == "/exit":
            return 0
        if prompt == "/reset":
            talk.forget()
            note(say("chat_forgot"))
        elif prompt:
            show(talk, prompt, console)


def show(talk: Talk, prompt: str, console: Any) -> None:
    """Print one answer as it comes. The model's own brackets are text, never markup."""
    import openai

    pieces = talk.answer(prompt)
    try:
        for text in pieces:
            console.print(text, end="", markup=False, soft_wrap=True)
        console.print()
    except KeyboardInterrupt:
        console.print(f" {say('chat_stopped')}", style="dim")
    except openai.OpenAIError as error:
        note(trouble(error))
    finally:
        pieces.close()  # ends the stream, and with it the work at the server


def trouble(error: Any) -> str:
    """What to tell when no answer came."""
    too_long = getattr(error, "code", None) == "context_length_exceeded"
    return say("chat_full" if too_long else "chat_failed", reason=reason_of(error))


def reason_of(error: Exception) -> str:
    body = getattr(error, "body", None)
    if isinstance(body, dict) and body.get("message"):
        return str(body["message"])
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def host_of(url: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(url).hostname or ""
