"""An ASGI server whose end is ours to decide."""

import signal
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn


class Server(uvicorn.Server):
    """uvicorn that comes back to us with our exit code: its own would raise the signal again after the last answer."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        old = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
