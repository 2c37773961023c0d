"""Talk to a model in the terminal: streamed, with a memory of the conversation. Piped, one prompt a line."""

import io
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from easyllm.core.artifact import read_manifest
from easyllm.core.errors import UserError, refuse
from easyllm.core.inputs import written_path
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.core.servers import ServerEnded
from easyllm.serve.chat_commands import NotDone, obey
from easyllm.serve.talk import Question, Talk, trouble

REFUSED = 2
SHOWN_CHARACTERS = 60


def chat(target: str, system: str | None, max_tokens: int, temperature: float, key_variable: str | None = None) -> int:
    """Talk to the server at URL ``target``, or to a server of our own for the model directory ``target``.

    Exit code 0, 1 when the server stops answering, 2 for a piped command that cannot be done. Raises UserError
    CHAT-001 to CHAT-005.
    """
    require_text(system or "")
    try:
        with server_for(target) as url:
            talk = Talk(url, system, {"max_tokens": max_tokens, "temperature": temperature}, key_variable)
            return in_terminal(talk) if sys.stdin.isatty() else from_lines(talk)
    except ServerEnded as error:
        return error.code  # it has said why itself


@contextmanager
def server_for(target: str) -> Iterator[str]:
    """The address to talk to, for as long as the block lasts."""
    if target.startswith(("http://", "https://")):
        yield target.rstrip("/").removesuffix("/v1")
        return
    path = written_path(target)
    manifest = read_manifest(path)
    if not (path / "config.json").is_file() or (manifest and manifest.kind != "model"):
        raise refuse("CHAT-002", target=target)
    from easyllm.serve.config import ServeConfig
    from easyllm.serve.process import running_server

    note(say("chat_starting", path=path))
    with running_server(path, path.absolute().name, ServeConfig(max_concurrent_requests=1)) as server:
        yield server.url


def from_lines(talk: Talk) -> int:
    """Every line of stdin is a prompt or a command, every answer goes to stdout. The first failure ends it."""
    import openai

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is refused by its line, not by a traceback
    for line in sys.stdin:
        said = line.strip()
        if said == "/exit":
            break
        try:
            question = question_of(talk, said)
            if question:
                write_answers(talk, question)
        except NotDone as reason:
            note(str(reason))
            return REFUSED
        except openai.OpenAIError as error:
            note(trouble(error))
            return 1
    return 0


def question_of(talk: Talk, said: str, rewrite: Any = None) -> Question | None:
    """What is to be asked after a line, if anything. Raises NotDone where it is a command that cannot be done."""
    try:
        require_text(said)
        found = obey(talk, said, rewrite) if said.startswith("/") else Question(said) if said else None
        require_text(found.prompt if found else "")  # it may have been written anew
    except UserError as error:
        raise NotDone(str(error)) from error
    return found


def require_text(given: str) -> None:
    """Raises UserError CHAT-005 where it has bytes that were no text: Python holds them as lone surrogates."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        shown = given.encode("utf-8", "backslashreplace").decode()
        raise refuse("CHAT-005", shown=shown[:SHOWN_CHARACTERS]) from error


def write_answers(talk: Talk, question: Question) -> None:
    """The answers on stdout, each ending its line; of two models, each below its name."""
    begun = False
    for model, text in talk.answer(question):
        if text:
            print(text, end="", flush=True)
            continue
        print("\n" * begun + heading(talk, model), end="", flush=True)
        begun = True
    print(flush=True)


def heading(talk: Talk, model: str) -> str:
    """The line above an answer, where it has to be told whose it is."""
    return f"[{model}]\n" if talk.beside else ""


def in_terminal(talk: Talk) -> int:
    """Ask and answer until /exit or Ctrl-D; Ctrl-C stops an answer, not the conversation."""
    import readline  # noqa: F401  gives input() its history and line editing

    from rich.console import Console

    console = Console(highlight=False)
    note(say("chat_hello", model=talk.model))
    while True:
        try:
            said = console.input("[bold green]>[/] ").strip()
            if said == "/exit":
                return 0
            question = question_of(talk, said, rewrite)
        except KeyboardInterrupt:
            console.print()
        except EOFError:
            console.print()
            return 0
        except NotDone as reason:
            note(str(reason))
        else:
            if question:
                show(talk, question, console)


def rewrite(text: str) -> str:
    """The text as the user changes it on a line of its own."""
    import readline

    readline.set_startup_hook(lambda: readline.insert_text(text))
    try:
        return input("~ ")
    finally:
        readline.set_startup_hook(None)


def show(talk: Talk, question: Question, console: Any) -> None:
    """Print the answers as they come. The model's own brackets are text, never markup."""
    import openai

    begun = False
    try:
        with closing(talk.answer(question)) as pieces:
            for model, text in pieces:
                if text:
                    console.print(text, end="", markup=False, soft_wrap=True)
                else:
                    console.print("\n" * begun + heading(talk, model), end="", markup=False, style="dim")
                    begun = True
        console.print()
    except KeyboardInterrupt:
        console.print(f" {say('chat_stopped')}", style="dim")
    except openai.OpenAIError as error:
        note(trouble(error))
