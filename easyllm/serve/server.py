"""The server process: ``python -m easyllm.serve.server``. Its address is the one line on stdout."""

import argparse
import os
import socket
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import uvicorn

from easyllm.core.addresses import is_loopback
from easyllm.core.artifact import read_manifest
from easyllm.core.asgi import Server
from easyllm.core.errors import StageFailed, UserError
from easyllm.core.launch import die_with_parent
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.serve import address
from easyllm.serve.adapter_settings import AdapterSettings, adapters_of, add_adapter_arguments
from easyllm.serve.app import build_app
from easyllm.serve.contract import Loaded, Remote
from easyllm.serve.desk import About, Desk
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
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    dtype: str = "auto"
    prefix_cache: bool | None = None


class Loader(threading.Thread):
    """Loads the model while the server already says 503; a failure stops the server and is kept."""

    def __init__(self, settings: Settings, desk: Desk, server: Server) -> None:
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
        from easyllm.serve.remote import load_remote

        return load_remote(settings.model, settings.name, settings.limits, settings.remote)
    from easyllm.serve import loading

    return loading.load(settings.model, settings.limits, settings.dtype, settings.prefix_cache, settings.adapters)


def serve(settings: Settings, greet: bool) -> None:
    """Listen, load, answer until SIGTERM or Ctrl-C, let answers under way end, and stop the engine.

    Raises UserError where the address or the model is refused, StageFailed where the model cannot run.
    """
    # Nothing here may wait for a hub that a closed network never answers. Set for this process only: a client
    # that shared it would refuse to talk even to localhost.
    os.environ["HF_HUB_OFFLINE"] = "1"
    listening = address.listen(settings.host, settings.port)
    desk = Desk(about(settings))
    server = Server(
        uvicorn.Config(
            build_app(desk, settings.adapters), log_level="warning", access_log=False, lifespan="off",
            timeout_graceful_shutdown=settings.drain_seconds,
        )
    )  # fmt: skip
    loader = Loader(settings, desk, server)
    loader.start()
    announce(settings, listening, desk, loader, greet)
    server.run(sockets=[listening])
    if not loader.ended:
        leave_now(0)  # stopped by the user while the model was loading: nothing to save, and it may take minutes
    if desk.loaded:
        desk.loaded.voice.engine.stop()
    loader.raise_failure()


def about(settings: Settings) -> About:
    manifest = read_manifest(settings.model)
    return About(settings.name, manifest.digest if manifest else None, settings.limits)


def announce(settings: Settings, listening: socket.socket, desk: Desk, loader: Loader, greet: bool) -> None:
    """The address on stdout at once; on stderr, when the model is ready, how to ask it."""
    url = address.reachable(settings.host, listening.getsockname()[1])
    print(url, flush=True)
    if not is_loopback(settings.host):
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
    limits = Limits(given.max_total_tokens, given.max_input_tokens, given.max_concurrent_requests)
    remote = Remote(given.remote, given.remote_key_variable) if given.remote else None
    settings = Settings(
        given.model, given.name, given.host, given.port, limits, given.drain_seconds, remote, adapters_of(given),
        dtype=given.dtype, prefix_cache=given.prefix_cache,
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
    add_adapter_arguments(parser)
    parser.add_argument("--dtype", default="auto", help="what the embedded engine computes in, such as float32")
    parser.add_argument("--prefix-cache", action=argparse.BooleanOptionalAction, help="read common beginnings once")
    parser.add_argument("--die-with-parent", action="store_true", help="end when the process that started it ends")
    return parser.parse_args(arguments)


def leave_now(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
