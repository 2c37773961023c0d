"""The server process: ``python -m easyllm.serve.server``. Its address is the one line on stdout."""

import argparse
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import uvicorn

from easyllm.core.addresses import is_loopback
from easyllm.core.artifact import read_manifest
from easyllm.core.errors import StageFailed, UserError
from easyllm.core.launch import die_with_parent
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.serve import address
from easyllm.serve.adapters.settings import AdapterSettings, adapters_of, add_adapter_arguments
from easyllm.serve.app import build_app
from easyllm.serve.contract import Loaded, Remote
from easyllm.serve.desk import About, Desk
from easyllm.serve.door.access import Access, access_given, access_problems, add_access_arguments
from easyllm.serve.door.drain import CUT_SECONDS, DrainingServer
from easyllm.serve.door.keys import KeyRing
from easyllm.serve.door.requestlog import RequestLog
from easyllm.serve.limits import Limits


@dataclass(frozen=True)
class Settings:
    """All a server process needs to know."""

    model: Path
    name: str
    host: str
    port: int
    limits: Limits
    drain_seconds: int
    remote: Remote | None = None
    """Where the remote engine is; None makes the embedded one."""
    access: Access = field(default_factory=Access)
    """Who may ask."""
    gguf: Path | None = None
    """What the engine llama.cpp runs; None makes another one."""
    dtype: str = "auto"
    prefix_cache: bool | None = None
    adapters: AdapterSettings = field(default_factory=AdapterSettings)


class Loader(threading.Thread):
    """Loads the model while the server already says 503; a failure stops the server and is kept."""

    def __init__(self, settings: Settings, desk: Desk, server: DrainingServer) -> None:
        super().__init__(name="load-model", daemon=True)
        self._settings, self._desk, self._server = settings, desk, server
        self.failure: UserError | StageFailed | None = None
        self.ended = False

    def run(self) -> None:
        try:
            self._desk.loaded = load(self._settings)
        except (UserError, StageFailed) as error:
            self.failure = error
        finally:
            self.ended = True
            if self._desk.loaded is None:
                self._server.should_exit = True

    def raise_failure(self) -> None:
        """What went wrong while loading, if anything did; a bug of ours has shown its traceback by now."""
        self.join()
        if self.failure:
            raise self.failure
        if self._desk.loaded is None:
            raise StageFailed("SERVE the model could not be loaded; the reason stands above")


def load(settings: Settings) -> Loaded:
    """The model with the engine asked for. Imported here, since both bring transformers, and one of them weights."""
    if settings.remote:
        from easyllm.serve.engines.remote import load_remote

        return load_remote(settings.model, settings.name, settings.limits, settings.remote)
    if settings.gguf:
        from easyllm.serve.engines.llama_loading import load_llama

        return load_llama(settings.model, settings.gguf, settings.limits)
    from easyllm.serve.engines import loading

    return loading.load(
        settings.model, settings.limits, settings.dtype, settings.prefix_cache, settings.adapters
    )  # fmt: skip


def serve(settings: Settings, greet: bool) -> None:
    """Listen, load, answer until SIGTERM or Ctrl-C, let answers under way end, and stop the engine.

    Raises UserError where the address or the model is refused, StageFailed where the model cannot run.
    """
    # Nothing here may wait for a hub that a closed network never answers. Set for this process only: a client
    # that shared it would refuse to talk even to localhost.
    os.environ["HF_HUB_OFFLINE"] = "1"
    desk = open_desk(settings)
    listening = address.listen(settings.host, settings.port)
    server = DrainingServer(
        uvicorn.Config(
            build_app(desk, settings.adapters), log_level="warning", access_log=False, lifespan="off",
            timeout_graceful_shutdown=CUT_SECONDS,
            # Else whoever asks over loopback could give himself any address, and with it a rate of his own.
            proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
        ),
        desk, settings.drain_seconds, rereading(desk),
    )  # fmt: skip
    loader = Loader(settings, desk, server)
    loader.start()
    announce(settings, listening, desk, loader, greet)
    server.run(sockets=[listening])
    if not loader.ended:
        leave_now(0)  # stopped by the user while the model was loading: nothing to save, and it may take minutes
    if desk.loaded:
        desk.loaded.voice.engine.stop()
    desk.log.close()
    loader.raise_failure()


def open_desk(settings: Settings) -> Desk:
    """The desk with its keys and its log, before the model is there. Raises UserError SERVE-040 to SERVE-048."""
    access = settings.access
    problems = access_problems(settings.host, access)
    if problems:
        raise UserError(*problems)
    manifest = read_manifest(settings.model)
    engine = "remote" if settings.remote else "llama.cpp" if settings.gguf else "embedded"
    about = About(settings.name, manifest.digest if manifest else None, settings.limits, engine, manifest)
    keys = KeyRing(access.keys_file, access.key_variable) if access.has_keys else None
    return Desk(about, access, keys, RequestLog(access.request_log))


def rereading(desk: Desk) -> Callable[[], None] | None:
    """What SIGHUP does: read the keys and open the log again. None where there is no file: then it ends the process."""
    if desk.access.keys_file is None and desk.access.request_log in (None, "stderr"):
        return None

    def read_keys_again() -> None:
        if desk.keys:
            note(say("serve_keys_read", count=desk.keys.read_again()))

    def read_again() -> None:
        for again in (read_keys_again, desk.log.open_again):  # a full disk must not keep a withdrawn key alive
            try:
                again()
            except UserError as error:
                note(say("serve_kept_as_it_was", reason=str(error)))

    return read_again


def announce(settings: Settings, listening: socket.socket, desk: Desk, loader: Loader, greet: bool) -> None:
    """The address on stdout at once; on stderr, when the model is ready, how to ask it."""
    url = address.reachable(settings.host, listening.getsockname()[1])
    print(url, flush=True)
    if not is_loopback(settings.host) and not settings.access.has_keys:
        note(say("serve_open", host=settings.host))
    if not greet:
        return

    def greeting() -> None:
        loader.join()
        if desk.loaded:
            note(say("serve_ready", model=settings.name, url=url))

    threading.Thread(target=greeting, daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 after a clean stop, 2 for what the user must change, 1 for what failed."""
    given = parse(arguments)
    if given.die_with_parent:
        die_with_parent()
    limits = Limits(
        given.max_total_tokens, given.max_input_tokens, given.max_concurrent_requests, given.max_queued_requests
    )
    remote = Remote(given.remote, given.remote_key_variable) if given.remote else None
    settings = Settings(
        given.model, given.name, given.host, given.port, limits, given.drain_seconds, remote, access_given(given),
        given.gguf, given.dtype, given.prefix_cache, adapters_of(given),
    )  # fmt: skip
    try:
        serve(settings, greet=not given.die_with_parent)
    except (UserError, StageFailed) as error:
        note(str(error))
        return 2 if isinstance(error, UserError) else 1
    return 0


def parse(arguments: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(prog="python -m easyllm.serve.server", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="directory of a Hugging Face model")
    parser.add_argument("--name", required=True, help="model id that clients see")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one")
    for name in ("--max-total-tokens", "--max-input-tokens", "--max-concurrent-requests", "--drain-seconds"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--remote", help="base address, ending in /v1, of the server that has the weights")
    parser.add_argument("--remote-key-variable", help="environment variable with the API key of that server")
    parser.add_argument("--max-queued-requests", type=int, default=0, help="requests that may wait for a place")
    add_access_arguments(parser)
    add_adapter_arguments(parser)
    parser.add_argument("--gguf", type=Path, help="GGUF file of the model, which llama.cpp is to run")
    parser.add_argument("--dtype", default="auto", help="what the embedded engine computes in, such as float32")
    parser.add_argument("--prefix-cache", action=argparse.BooleanOptionalAction, help="read common beginnings once")
    parser.add_argument("--die-with-parent", action="store_true", help="end when the process that started it ends")
    given = parser.parse_args(arguments)
    other = "--remote" if given.remote else "--gguf" if given.gguf else None
    embedded = {
        "--gguf": given.remote and given.gguf, "--dtype": given.dtype != "auto",
        "--prefix-cache": given.prefix_cache is not None, "--adapter": given.adapter, "--admin": given.admin,
    }  # fmt: skip
    misfit = next((flag for flag, asked in embedded.items() if asked), None)
    if other and misfit:
        parser.error(f"{misfit} does nothing beside {other}: leave one of them out")
    return given


def leave_now(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
