"""The server as a process: when it is ready, how it stops, what it refuses to start with."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from easyllm.serve.server import parse

LIMITS = ("--max-total-tokens", "200", "--max-input-tokens", "150", "--max-concurrent-requests", "2")


@contextmanager
def server(model: Path, *more: str, port: int = 0) -> Iterator[tuple[Any, str]]:
    """(process, url) of a server that listens and may still be loading; killed at the end if need be."""
    command = [sys.executable, "-m", "easyllm.serve.server", "--model", str(model), "--name", "tiny",
               "--port", str(port), *LIMITS, "--drain-seconds", "20", *more]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def health(url: str) -> int:
    return httpx.get(f"{url}/health", trust_env=False, timeout=60).status_code


def wait_healthy(url: str, process: Any) -> None:
    for _ in range(600):
        assert process.poll() is None, process.stderr.read()
        if health(url) == 200:
            return
        time.sleep(0.05)
    pytest.fail("never healthy")


def test_nobody_gives_himself_another_address_and_with_it_a_rate_of_his_own(serve_model: Path) -> None:
    with server(serve_model, "--requests-per-minute", "2") as (process, url):
        wait_healthy(url, process)
        ask = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
        codes = [
            httpx.post(f"{url}/generate", json=ask, headers={"X-Forwarded-For": f"10.0.0.{place}"}, trust_env=False,
                       timeout=60).status_code
            for place in range(3)
        ]  # fmt: skip
        assert codes == [200, 200, 429]


def test_it_says_503_until_it_can_answer_and_drains_when_told_to_stop(serve_model: Path, long_babble: Any) -> None:
    with server(serve_model) as (process, url):
        assert health(url) == 503
        question = {"messages": [{"role": "user", "content": "a"}]}
        early = httpx.post(f"{url}/v1/chat/completions", json=question, trust_env=False, timeout=60)
        assert early.status_code == 503
        assert early.headers["retry-after"] == "1"
        wait_healthy(url, process)
        body, _ = long_babble
        whole = httpx.post(f"{url}/generate", json=body, trust_env=False, timeout=60).json()["generated_text"]
        with httpx.stream("POST", f"{url}/generate_stream", json=body, trust_env=False, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            last = [line for line in lines if line][-1]
        assert httpx.Response(200, content=last.removeprefix("data: ")).json()["generated_text"] == whole
        assert process.wait(timeout=90) == 0
        with pytest.raises(httpx.ConnectError):
            health(url)
        told = process.stderr.read()
        assert "easyllm chat" in told
        assert "Traceback" not in told


def test_ctrl_c_while_the_model_still_loads_ends_it_at_once(serve_model: Path) -> None:
    with server(serve_model) as (process, url):
        assert health(url) == 503
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=90) == 0


def test_it_dies_with_the_one_who_started_it(serve_model: Path) -> None:
    starter = (
        "import subprocess, sys\n"
        "p = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)\n"
        "print(p.pid, p.stdout.readline().strip(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-m", "easyllm.serve.server", "--model", str(serve_model), "--name", "tiny",
               "--port", "0", *LIMITS, "--drain-seconds", "5", "--die-with-parent"]  # fmt: skip
    parent = subprocess.Popen(
        [sys.executable, "-c", starter, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    number, url = parent.stdout.readline().split()
    assert health(url) == 503
    parent.kill()
    parent.wait()
    for _ in range(600):
        if not Path(f"/proc/{number}").exists() or Path(f"/proc/{number}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    os.kill(int(number), signal.SIGKILL)
    pytest.fail("the server outlived its parent")


def test_a_port_taken_is_told_with_a_free_one(serve_model: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with server(serve_model, port=other.getsockname()[1]) as (process, url):
            assert process.wait(timeout=60) == 2
            assert url == ""
            told = process.stderr.read()
    assert told.startswith("SERVE-001")
    assert "serve.port=" in told
    assert "Traceback" not in told


def test_a_damaged_model_ends_it_with_exit_code_one_and_no_traceback(serve_model: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(serve_model, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with server(broken) as (process, _):
        assert process.wait(timeout=60) == 1
        told = process.stderr.read()
    assert "cannot be loaded" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("flags", "misfit"),
    [
        ("--gguf a.gguf --dtype bfloat16", "--dtype does nothing beside --gguf"),
        ("--gguf a.gguf --no-prefix-cache", "--prefix-cache does nothing beside --gguf"),
        ("--remote http://a/v1 --adapter a=b", "--adapter does nothing beside --remote"),
        ("--remote http://a/v1 --gguf a.gguf", "--gguf does nothing beside --remote"),
        ("--remote http://a/v1 --admin", "--admin does nothing beside --remote"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(flags: str, misfit: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = "--model m --name n --port 0 --max-total-tokens 9 --max-input-tokens 8 --max-concurrent-requests 1"
    with pytest.raises(SystemExit, match="2"):
        parse([*needed.split(), "--drain-seconds", "1", *flags.split()])
    assert misfit in capsys.readouterr().err


def test_other_machines_are_let_in_only_when_told_and_then_it_warns(serve_model: Path) -> None:
    with server(serve_model, "--host", "0.0.0.0", "--open-without-keys") as (process, url):
        assert url.startswith("http://127.0.0.1:")
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(process.stderr.readline()))
        reader.start()
        reader.join(60)
        assert "no password" in said[0]
