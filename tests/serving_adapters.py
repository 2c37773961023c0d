"""A live server of a tiny base with adapters, on loopback in this process."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from easyllm.serve import address
from easyllm.serve.adapters.settings import AdapterSettings
from easyllm.serve.contract import Sampling, Token
from easyllm.serve.limits import Limits
from tiny_tune import write_base
from trained_adapters import train_adapter

TOKENS = 24
TEXTS = ("Hello", "What colour is the door? " * 12, "门是红色的", "Add 2 + 3")


@dataclass
class WithAdapters:
    """A live server of a tiny base with the adapters red and blue, and the admin routes."""

    url: str
    desk: Any
    base: Path
    shelf_folder: Path
    paths: dict[str | None, Path | None]

    @property
    def engine(self) -> Any:
        return self.desk.model.voice.engine

    @property
    def prompts(self) -> list[list[int]]:
        return [self.desk.model.voice.tokenizer.encode(text) for text in TEXTS]

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, trust_env=False, timeout=60)

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}{path}", trust_env=False, timeout=60).json()

    def together(self, asks: list[tuple[list[int], str | None]], tokens: int = TOKENS) -> list[list[Token]]:
        """Greedy answers to requests that run at the same time."""

        async def one(ids: list[int], who: str | None) -> list[Token]:
            return [token async for token in self.engine.generate(ids, tokens, Sampling(), who)]

        async def all_of_them() -> list[list[Token]]:
            return await asyncio.gather(*(one(*ask) for ask in asks))

        return asyncio.run(all_of_them())


@contextmanager
def serving(folder: Path, family: str) -> Iterator[WithAdapters]:
    import uvicorn

    from easyllm.serve.app import build_app
    from easyllm.serve.desk import About, Desk
    from easyllm.serve.engines.loading import load

    base = write_base(folder / "base", family)
    red = train_adapter(base, folder / "red", family, seed=1)
    blue = train_adapter(base, folder / "blue", family, seed=2, r=8, use_rslora=True, alpha_pattern={"c_proj": 3})
    shelf = folder / "shelf"
    train_adapter(base, shelf / "green", family, seed=3)
    limits = Limits(total_tokens=240, input_tokens=200, concurrent_requests=6)
    settings = AdapterSettings((("red", red), ("blue", blue)), most=3, admin=True, folder=shelf)
    desk = Desk(About("tiny", "abc", limits))
    desk.loaded = load(base, limits, adapters=settings)
    listening = address.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(desk, settings), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    yield WithAdapters(url, desk, base, shelf, {None: None, "red": red, "blue": blue, "green": shelf / "green"})
    server.should_exit = True
    thread.join(10)
    desk.loaded.voice.engine.stop()
