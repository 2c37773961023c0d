"""The server behind ours comes late, dies and comes back: two real processes, and what a client sees meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from easyllm.serve import address

CHAT = {"messages": [{"role": "user", "content": "灯塔"}], "max_tokens": 8, "temperature": 0}
LIMITS = ("--max-total-tokens", "200", "--max-input-tokens", "150", "--max-concurrent-requests", "2")


@contextmanager
def server(model: Path, log: Path, *more: str, port: int = 0) -> Iterator[tuple[Any, str]]:
    """(process, url) of a server that listens and may still be loading; killed at the end if need be."""
    command = [sys.executable, "-m", "easyllm.serve.server", "--model", str(model), "--name", "tiny",
               "--port", str(port), *LIMITS, "--drain-seconds", "20", *more]  # fmt: skip
    with log.open("a") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
    try:
        assert process.stdout
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def status(url: str) -> int:
    return httpx.get(f"{url}/health", trust_env=False, timeout=60).status_code


def until(wanted: int, url: str, log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while status(url) != wanted:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def post(url: str, path: str, body: Any) -> httpx.Response:
    return httpx.post(url + path, json=body, trust_env=False, timeout=60)


@pytest.mark.slow
def test_an_engine_that_comes_late_dies_and_comes_back(serve_model: Path, tmp_path: Path, long_babble: Any) -> None:
    port, log, other = address.free_port(), tmp_path / "front.log", tmp_path / "upstream.log"
    behind = f"http://127.0.0.1:{port}"
    with server(serve_model, log, "--remote", f"{behind}/v1") as (front, url):
        early = post(url, "/v1/chat/completions", CHAT)
        assert (early.status_code, early.headers["retry-after"]) == (503, "1")
        while "waiting" not in log.read_text():
            assert front.poll() is None
            time.sleep(0.1)
        assert behind in log.read_text()
        assert "Connection refused" in log.read_text()

        with server(serve_model, other, port=port) as (upstream, _):
            until(200, url, log)
            assert "is there, with the model tiny" in log.read_text()
            said = post(url, "/v1/chat/completions", CHAT).json()["choices"]
            cut = cut_in_two(url, long_babble[0], upstream)
            assert cut["error_type"] == "generation"
            assert "broke off" in cut["error"]

        for stream in (False, True):  # at once, before the next look, and later too
            refused = post(url, "/v1/chat/completions", {**CHAT, "stream": stream})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["type"] == "server_error"
        until(503, url, log)
        refused = post(url, "/generate_stream", {"inputs": "a"})
        assert (refused.status_code, refused.json()["error_type"]) == (503, "unhealthy")
        assert behind not in refused.text  # an address inside is nobody's business outside
        assert f"the engine at {behind}/v1 is away" in log.read_text()

        with server(serve_model, other, port=port):
            until(200, url, log)
            assert post(url, "/v1/chat/completions", CHAT).json()["choices"] == said
        front.send_signal(signal.SIGTERM)
        assert front.wait(timeout=90) == 0
    assert "Traceback" not in log.read_text()


def cut_in_two(url: str, body: Any, upstream: Any) -> Any:
    """The last event of a stream whose engine is killed after the first one."""
    with httpx.stream("POST", f"{url}/generate_stream", json=body, trust_env=False, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        upstream.kill()
        last = [line for line in lines if line][-1]
    return json.loads(last.removeprefix("data: "))


def test_ctrl_c_while_waiting_for_an_engine_ends_it_at_once(serve_model: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with server(serve_model, log, "--remote", f"http://127.0.0.1:{address.free_port()}/v1") as (front, url):
        assert status(url) == 503
        front.send_signal(signal.SIGINT)
        assert front.wait(timeout=90) == 0
    assert "Traceback" not in log.read_text()


def test_a_missing_key_ends_it_with_the_code(serve_model: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert "NO_SUCH_KEY" not in os.environ
    remote = ("--remote", "http://127.0.0.1:9/v1", "--remote-key-variable", "NO_SUCH_KEY")
    with server(serve_model, log, *remote) as (front, _):
        assert front.wait(timeout=60) == 2
    assert log.read_text().startswith("SERVE-033")
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("verb", ["check", "serve"])
def test_the_command_line_refuses_with_one_code_and_no_traceback(easyllm: Any, serve_model: Path, verb: str) -> None:
    recipe = Path(__file__).parent.parent / "broken" / "SERVE-031.yaml"
    told = easyllm(verb, recipe, f"serve.port={address.free_port()}", expect=2).stderr
    assert "SERVE-031" in told
    assert "http://vllm:8000/v1" in told
    assert "Traceback" not in told
