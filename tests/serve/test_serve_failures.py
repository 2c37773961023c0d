"""A server that does not come up, does not go down, or cannot run a model says so with a code."""

import asyncio
import contextlib
import gc
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch

from easyllm.core import servers
from easyllm.core.errors import StageFailed, UserError
from easyllm.serve import checks
from easyllm.serve.contract import EngineFailed, Piece
from easyllm.serve.engines.embedded import ContinuousBatching
from easyllm.serve.engines.loading import load, load_weights
from easyllm.serve.limits import Limits
from easyllm.serve.plan import plan
from easyllm.serve.rehearsal import rehearse
from easyllm.serve.several import together
from easyllm.serve.words import load_words

STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); "
    "print('up', flush=True); time.sleep(60)"
)


def program(code: str) -> "subprocess.Popen[str]":
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline().strip() == "up"
    return started


def test_a_server_that_never_gets_healthy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "START_SECONDS", 0.3)
    started = program(STUBBORN)
    try:
        with pytest.raises(StageFailed, match="SERVE-008"):
            servers.wait_until_healthy("http://127.0.0.1:9", started)
    finally:
        servers.stop(started, 1, must_be_clean=False)


def test_a_server_that_ends_badly_is_told() -> None:
    with pytest.raises(StageFailed, match=r"SERVE-009.*exit code 3"):
        servers.stop(program(STUBBORN), 1, must_be_clean=True)


def test_a_directory_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StageFailed, match="SERVE-011"):
        load_weights(tmp_path, torch.float32, torch.device("cpu"))


def test_a_model_that_continuous_batching_does_not_know_is_told() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    model: Any = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1)).eval()
    with pytest.raises(StageFailed, match="SERVE-012"):
        ContinuousBatching(model, [0], Limits(64, 60, 1))


def test_when_all_answers_of_a_request_fail_at_once_each_failure_has_been_heard() -> None:
    complaints: list[dict[str, Any]] = []

    async def fail() -> AsyncGenerator[Piece, None]:
        await asyncio.sleep(0)
        raise EngineFailed("gone")
        yield

    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        async with aclosing(together([fail(), fail(), fail()])) as pieces:
            with pytest.raises(EngineFailed, match="gone"):
                await anext(pieces)
        gc.collect()

    asyncio.run(ask())
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages[0]['content'].encode('ascii').decode('ascii') }}"])
def test_a_template_that_writes_no_question_is_refused_before_the_weights_are_read(
    serve_model: Path, tmp_path: Path, template: str
) -> None:
    broken = shutil.copytree(serve_model, tmp_path / "broken")
    (broken / "chat_template.jinja").write_text(template, "utf-8")
    with pytest.raises(UserError, match=r"TEMPLATE-006.*(Hello.*division|介绍.*ascii)"):
        load_words(broken)


def test_a_template_that_writes_no_answers_is_served_and_ends_with_the_models_own_token(
    serve_model: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(serve_model, tmp_path / "base")
    (base / "manifest.json").unlink(missing_ok=True)
    asks_only = "{% for m in messages %}{{ m['content'] if m['role'] == 'user' else 1 / 0 }}{% endfor %}"
    (base / "chat_template.jinja").write_text(asks_only, "utf-8")
    _, given, ends = load_words(base)
    assert ends == ([given.eos_token_id] if isinstance(given.eos_token_id, int) else given.eos_token_id)


def put(folder: Path, name: str, text: str | bytes | None) -> None:
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def with_value(folder: Path, name: str, **values: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")


BROKEN: dict[str, Callable[[Path], None]] = {
    "config cut": lambda folder: put(folder, "config.json", '{"a": '),
    "config a list": lambda folder: put(folder, "config.json", "[1]"),
    "positions a word": lambda folder: with_value(folder, "config.json", max_position_embeddings="abc"),
    "hidden size a word": lambda folder: with_value(folder, "config.json", hidden_size="48"),
    "generation cut": lambda folder: put(folder, "generation_config.json", '{"a": '),
    "generation a list": lambda folder: put(folder, "generation_config.json", "[1]"),
    "end token a word": lambda folder: with_value(folder, "generation_config.json", eos_token_id="x"),
    "tokenizer settings not UTF-8": lambda folder: put(folder, "tokenizer_config.json", b"\xff\xfe{"),
    "no tokenizer": lambda folder: put(folder, "tokenizer.json", None),
    "tokenizer broken": lambda folder: put(folder, "tokenizer.json", '{"model": 3}'),
    "weights cut": lambda folder: put(folder, "model.safetensors", (folder / "model.safetensors").read_bytes()[:-9]),
    "weights a letter": lambda folder: put(folder, "model.safetensors", "dear sir"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_model_with_a_broken_file_is_refused_with_its_name(
    serve_model: Path, serve_job: Any, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    broken = shutil.copytree(serve_model, tmp_path / "broken")
    change(broken)
    with pytest.raises((UserError, StageFailed), match=r"(SERVE-011|SERVE-014).*(broken|config\.json)"):
        load(broken, Limits(100, 80, 2))
    for look in (checks.check, plan):  # what they see of it without torch is a mistake of the user's too
        with contextlib.suppress(UserError):
            look(serve_job(broken))


def test_a_question_that_the_server_would_refuse_is_refused_before_one_is_started(
    serve_model: Path, serve_job: Any
) -> None:
    assert [found.code for found in checks.check(serve_job(serve_model, ask=["hi"], ask_tokens=400))] == ["SERVE-015"]
    config = serve_job(serve_model, ask=["the sea " * 200], ask_tokens=64).config
    with pytest.raises(UserError, match=r"SERVE-015.*64 are more than the server takes"):
        rehearse(serve_model, "it", config)
