"""A tiny random chat model, and a real server of it on a loopback port in this process."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from browser import browser
from chat_page import chatting
from easyllm.core.digest import Digests
from easyllm.core.inputs import Place, resolve
from easyllm.core.stage import Job
from easyllm.serve import address
from easyllm.serve.config import ServeConfig
from tiny_chat import write_tiny_chat_model

MakeJob = Callable[..., Job[ServeConfig]]

__all__ = ["browser", "chatting"]  # fixtures of the chat page


@pytest.fixture(scope="session")
def serve_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny chat model."""
    return write_tiny_chat_model(tmp_path_factory.mktemp("serve") / "tiny-chat")


@dataclass
class Served:
    """A live server in this process."""

    url: str
    desk: Any

    @property
    def tokenizer(self) -> Any:
        return self.desk.model.voice.tokenizer

    @property
    def engine(self) -> Any:
        return self.desk.model.voice.engine

    def idle(self, within: float = 30.0) -> bool:
        """Whether nothing is being answered any more, within so many seconds."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            if not self.desk.running and not self.engine.running:
                return True
            time.sleep(0.02)
        return False


@pytest.fixture(scope="session")
def served(serve_model: Path) -> Iterator[Served]:
    """The tiny model, served: 200 tokens at most, three requests at once."""
    import uvicorn

    from easyllm.serve.app import build_app
    from easyllm.serve.desk import About, Desk
    from easyllm.serve.engines.loading import load
    from easyllm.serve.limits import Limits

    limits = Limits(total_tokens=200, input_tokens=150, concurrent_requests=3)
    desk = Desk(About("tiny-chat", "abc", limits))
    desk.loaded = load(serve_model, limits)
    listening = address.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(desk), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", desk)
    server.should_exit = True
    thread.join(10)
    desk.loaded.voice.engine.stop()


@pytest.fixture
def serve_job(tmp_path: Path) -> MakeJob:
    """``serve_job(model, port=...)``: the stage's job as the pipeline makes it."""

    def make(model: Path, **settings: Any) -> Job[ServeConfig]:
        config = ServeConfig(model=str(model), **({"port": address.free_port()} | settings))
        out = tmp_path / "run" / "serve.partial"
        out.mkdir(parents=True, exist_ok=True)
        cache = tmp_path / "cache"
        place = Place(tmp_path, out.parent, cache, ("merge", "serve"), ("serve",), Digests(cache / "digests.json"))
        return Job("serve", config, resolve("serve", config, place), 1, "demo", out.parent, cache, out)

    return make


@pytest.fixture(scope="session")
def long_babble(served: Served) -> tuple[dict[str, Any], int]:
    """(a TGI request, its tokens): a sampled answer that goes on for more than 100 tokens."""
    import httpx

    for seed in range(100):
        settings = {"max_new_tokens": 150, "do_sample": True, "seed": seed, "details": True}
        body = {"inputs": "a", "parameters": settings}
        answer = httpx.post(f"{served.url}/generate", json=body, trust_env=False, timeout=60).json()
        tokens = answer["details"]["generated_tokens"]
        if tokens > 100:
            return body, tokens
    pytest.fail("no seed gives a long answer")


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny chat model with 2048 positions, its weights in memory."""
    import torch

    from easyllm.serve.engines.loading import load_weights

    folder = write_tiny_chat_model(tmp_path_factory.mktemp("serve-long") / "tiny-long", positions=2048)
    return load_weights(folder, torch.float32, torch.device("cpu"))
