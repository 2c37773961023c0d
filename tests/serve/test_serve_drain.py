"""How a server begins and ends among others: offline, new keys on SIGHUP, and a drain under load."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving_doors import FIRST, SECOND, wait_until, write_keys

WATCHED = """
import os, sys
def watch(event, details):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        os.write(2, f"REACHED {details}\\n".encode())
sys.addaudithook(watch)
from easyllm.serve.server import main
sys.exit(main())
"""
"""The server, with every attempt to reach another machine on stderr."""


class Process:
    """A server process and how to ask it with a key."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, said: Path) -> None:
        self.process, self.url, self.said = process, url, said
        self.key = FIRST

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=self.headers(), trust_env=False, timeout=60)

    def live(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else -1.0

    def stream(self, path: str, body: dict[str, Any]) -> tuple[int, list[str], str]:
        """(status, events, connection header) of an answer, to its end."""
        settings: dict[str, Any] = {"headers": self.headers(), "trust_env": False, "timeout": 120}
        with httpx.stream("POST", self.url + path, json=body, **settings) as got:
            if got.status_code != 200:
                got.read()
                return got.status_code, [got.text], got.headers.get("connection", "")
            return 200, [line.removeprefix("data: ") for line in got.iter_lines() if line], ""


@contextmanager
def process(model: Path, folder: Path, places: int, queued: int, drain_seconds: int) -> Iterator[Process]:
    """A healthy server with keys; killed at the end if need be."""
    said = folder / "stderr"
    command = [
        sys.executable, "-c", WATCHED, "--model", str(model), "--name", "tiny", "--port", "0",
        "--max-total-tokens", "200", "--max-input-tokens", "150", "--max-concurrent-requests", str(places),
        "--max-queued-requests", str(queued), "--drain-seconds", str(drain_seconds),
        "--keys-file", str(write_keys(folder)), "--request-log", str(folder / "log"),
    ]  # fmt: skip
    with said.open("w") as errors:
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert started.stdout
        server = Process(started, started.stdout.readline().strip(), said)
        assert server.url, said.read_text()
        assert wait_until(lambda: started.poll() is not None or server.get("/health").status_code == 200, 120)
        assert started.poll() is None, said.read_text()
        yield server
    finally:
        started.kill()
        started.wait()


def crowd(
    pool: ThreadPoolExecutor, server: Process, body: dict[str, Any], count: int
) -> list["Future[tuple[int, list[str], str]]"]:
    """So many long streams, in turns of both dialects."""
    chat = {
        "messages": [{"role": "user", "content": "a"}], "stream": True, "max_tokens": 150, "seed": 1, "temperature": 1
    }  # fmt: skip
    asks = [("/generate_stream", body), ("/v1/chat/completions", chat)]
    return [pool.submit(server.stream, *asks[number % 2]) for number in range(count)]


@pytest.mark.slow
def test_a_server_starts_offline_takes_new_keys_and_drains_under_load(
    serve_model: Path, tmp_path: Path, long_babble: Any
) -> None:
    with process(serve_model, tmp_path, places=2, queued=30, drain_seconds=60) as server:
        write_keys(tmp_path, f"bob:{SECOND}\n")
        (tmp_path / "log").rename(tmp_path / "old-log")
        server.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: server.get("/info").status_code == 401)
        server.key = SECOND
        assert server.get("/info").status_code == 200
        with ThreadPoolExecutor(10) as pool:
            asked = crowd(pool, server, long_babble[0], 10)
            assert wait_until(lambda: server.live("easyllm_queue_requests") >= 4)
            server.process.send_signal(signal.SIGTERM)
            late = server.stream("/generate", {"inputs": "a"})
            health = server.get("/health")
            ended = [one.result() for one in asked]
        assert (late[0], late[2]) == (503, "close")
        assert json.loads(late[1][0])["error_type"] == "unhealthy"
        assert health.status_code == 503
        answered = [status for status, *_ in ended].count(200)
        assert answered >= 6, "two were being answered and four waited: none of them is lost"
        for number, (status, events, _) in enumerate(ended):
            if status == 503:
                assert "stopping" in events[0], "whoever came after the signal"
            elif number % 2:
                assert events[-1] == "[DONE]"
            else:
                assert json.loads(events[-1])["generated_text"]
        assert server.process.wait(timeout=90) == 0
        told = server.said.read_text()
    assert "Traceback" not in told
    reached = [line for line in told.splitlines() if line.startswith("REACHED")]
    assert [line for line in reached if "127.0.0.1" not in line] == [], "it reached for another machine"
    assert reached, "the watch sees at least how it finds its own address"
    assert FIRST not in told + (tmp_path / "log").read_text()
    assert len((tmp_path / "log").read_text().splitlines()) >= 10, "SIGHUP opened the log again"


@pytest.mark.slow
def test_when_time_is_up_answers_are_cut_with_an_error_and_those_who_wait_get_503(
    serve_model: Path, tmp_path: Path, long_babble: Any
) -> None:
    with process(serve_model, tmp_path, places=1, queued=60, drain_seconds=1) as server:
        with ThreadPoolExecutor(60) as pool:
            asked = crowd(pool, server, long_babble[0], 60)
            assert wait_until(lambda: server.live("easyllm_queue_requests") >= 40)
            server.process.send_signal(signal.SIGTERM)
            ended = [one.result() for one in asked]
        assert server.process.wait(timeout=90) == 0
        told = server.said.read_text()
    assert "Traceback" not in told
    assert "Cancel" not in told, "uvicorn had to cut what we should have"
    statuses = [status for status, *_ in ended]
    assert set(statuses) == {200, 503}
    assert statuses.count(503) >= 10
    last = [json.loads(events[-1]) for status, events, _ in ended if status == 200 and events[-1] != "[DONE]"]
    cut = [event["error"] for event in last if "error" in event]
    assert len(cut) <= 1  # one place: at most one answer was under way, or the cut fell between two
    assert all("stopping" in json.dumps(error) for error in cut)
