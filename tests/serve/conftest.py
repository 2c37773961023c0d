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

MakeJob = Callable[..., Job[ServeConfig]]

__all__ = ["browser", "chatting"]  # fixtures of the chat page

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('system comes first') }}{% endif %}"
    "<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def write_tiny_chat_model(folder: Path, *, template: str | None = TEMPLATE, positions: int = 256) -> Path:
    """A random llama that babbles bytes: broken characters, special tokens and all."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|text|>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    raw.train_from_iterator(["the sea and the ship go to the sea", "灯塔的光慢慢熄灭，船离开港口"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|text|>", additional_special_tokens=["<|start|>", "<|end|>"]
    )
    if template:
        tokenizer.chat_template = template
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=positions, bos_token_id=None, eos_token_id=0, pad_token_id=0,
        initializer_range=0.4,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
