"""More servers of a model that is loaded already, each with a door of its own, on loopback in this process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from easyllm.serve import address
from easyllm.serve.app import build_app
from easyllm.serve.desk import About, Desk
from easyllm.serve.door.access import Access
from easyllm.serve.door.keys import KeyRing
from easyllm.serve.door.requestlog import RequestLog
from easyllm.serve.limits import Limits

FIRST, SECOND = "first-key-of-the-tests-0001", "second-key-of-the-tests-0002"


class Doored:
    """A live server and how to ask it."""

    def __init__(self, url: str, desk: Desk) -> None:
        self.url, self.desk = url, desk

    def ask(self, path: str = "/generate", key: str | None = None, tokens: int = 4, **more: Any) -> httpx.Response:
        """A small question in the dialect of ``path``."""
        headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        body = more.pop("json", None) or (
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": tokens}
            if path.startswith("/v1")
            else {"inputs": "a", "parameters": {"max_new_tokens": tokens}}
        )
        return httpx.post(self.url + path, json=body, headers=headers, trust_env=False, timeout=120, **more)

    def get(self, path: str, key: str | None = None, **headers: str) -> httpx.Response:
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.get(self.url + path, headers=headers, trust_env=False, timeout=60)


@contextmanager
def doored(loaded: Any, access: Access | None = None, **more: Any) -> Iterator[Doored]:
    """A server of ``loaded`` with this door; ``more`` are Limits and, as ``about``, fields of About."""
    about = more.pop("about", {})
    sizes = {"total_tokens": 200, "input_tokens": 150, "concurrent_requests": 3} | more
    access = access or Access()
    keys = KeyRing(access.keys_file, access.key_variable) if access.has_keys else None
    told = {"name": "tiny-chat", "digest": "abc"} | about
    desk = Desk(About(limits=Limits(**sizes), **told), access, keys, RequestLog(access.request_log))
    desk.loaded = loaded
    listening = address.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(desk), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield Doored(f"http://127.0.0.1:{listening.getsockname()[1]}", desk)
    finally:
        server.should_exit = True
        thread.join(10)
        desk.log.close()


def write_keys(folder: Path, text: str = f"# for the tests\nalice:{FIRST}\n\n{SECOND}\n", mode: int = 0o600) -> Path:
    """A keys file."""
    file = folder / "keys"
    file.write_text(text)
    file.chmod(mode)
    return file


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether ``holds`` becomes true in time."""
    waited = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if holds():
            return True
        waited.wait(0.02)
    return False
