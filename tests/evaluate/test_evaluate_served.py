"""A server that answers otherwise than it should is told of in one sentence, and its key stays unsaid."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.errors import UserError
from easyllm.evaluate.config import Endpoint
from easyllm.evaluate.served import Served
from tiny_tune import check, make_job, write_base

KEY = "sekret-123"
TWO = {"token_logprobs": [None, -1.0, -2.0], "top_logprobs": [None, {"a": -1.0}, {"b": -1.5}]}
GOOD: dict[str, Any] = {"token_ids": [5], "logprobs": TWO}


@contextmanager
def answering(status: int, body: Callable[[str], Any]) -> Iterator[str]:
    """A server whose answer is made of the Authorization header that came; gives its base address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            data = json.dumps(body(self.headers.get("Authorization", ""))).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *told: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def require(url: str) -> None:
    served = Served(Endpoint(base_url=url, key_variable="EVALUATED_KEY"), [1], "evaluate")
    try:
        served.require()
    finally:
        served.close()


def test_a_key_from_a_file_is_sent_without_its_end_of_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALUATED_KEY", f"{KEY}\n")
    came: list[str] = []
    with answering(200, lambda header: came.append(header) or {"choices": [GOOD]}) as url:
        require(url)
    assert set(came) == {f"Bearer {KEY}"}


def test_a_server_that_repeats_the_key_does_not_make_us_print_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALUATED_KEY", KEY)
    told = r"EVAL-016.*HTTP 401: bad key Bearer \*\*\*"
    answer = answering(401, lambda header: {"error": {"message": f"bad key {header}"}})
    with answer as url, pytest.raises(UserError, match=told) as refused:
        require(url)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("key", ["密钥", "two\nlines", "  "])
def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_base(tmp_path / "base")
    monkeypatch.setenv("EVALUATED_KEY", key)
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "key_variable": "EVALUATED_KEY"}
    job = make_job(tmp_path, "evaluate", {"model": "base", "prompts": ["?"], "endpoint": endpoint})
    assert [p.code for p in check(job)] == ["EVAL-019"]


@pytest.mark.parametrize(
    ("choice", "lacking"),
    [
        ("x", "choices"),
        (GOOD | {"logprobs": [1]}, "logprobs"),
        (GOOD | {"logprobs": TWO | {"token_logprobs": [None, None, -2.0]}}, "logprobs"),
        (GOOD | {"logprobs": TWO | {"top_logprobs": [None, None, None]}}, "logprobs"),
        (GOOD | {"logprobs": TWO | {"top_logprobs": [None, {}, {}]}}, "logprobs"),
        (GOOD | {"logprobs": TWO | {"top_logprobs": [None]}}, "logprobs"),
        (GOOD | {"token_ids": ["a"]}, "token_ids"),
        (GOOD | {"token_ids": [None]}, "token_ids"),
        (GOOD | {"token_ids": None}, "token_ids"),
    ],
)
def test_an_answer_of_another_shape_is_named(choice: Any, lacking: str) -> None:
    answer = answering(200, lambda _: {"choices": [choice]})
    with answer as url, pytest.raises(UserError, match=f"EVAL-017.*{lacking}"):
        require(url)
