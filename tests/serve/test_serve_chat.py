"""The terminal chat, piped and on a real terminal."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

TALK = "import sys; from easyllm.serve.chat import chat; sys.exit(chat(sys.argv[1], sys.argv[2] or None, 24, 0.0))"


def pipe(target: Any, lines: str, system: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TALK, str(target), system]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120, check=False)


def ask(served: Any, *contents: str, system: str = "") -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    opening = [{"role": "system", "content": system}] if system else []
    body = {"messages": opening + messages, "temperature": 0, "max_tokens": 24}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, trust_env=False, timeout=60).json()
    return str(answer["choices"][0]["message"]["content"])


def test_piped_lines_are_answered_and_the_conversation_is_remembered(served: Any) -> None:
    first = ask(served, "Hello", system="Be brief")
    second = ask(served, "Hello", first, "灯塔", system="Be brief")
    fresh = ask(served, "灯塔", system="Be brief")
    assert second != fresh
    done = pipe(f"{served.url}/v1/", "Hello\n灯塔\n/reset\n灯塔\n/exit\nnever\n", system="Be brief")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{first}\n{second}\n{fresh}\n"


def test_a_conversation_that_grows_too_long_says_so_and_ends_with_one(served: Any) -> None:
    done = pipe(served.url, "灯塔的光" * 100 + "\n")
    assert done.returncode == 1
    assert "too long" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_directory_gets_a_server_for_as_long_as_it_is_talked_to(served: Any, serve_model: Path) -> None:
    done = pipe(serve_model, "Hello\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ask(served, "Hello") + "\n"


def read_until(terminal: int, wanted: str, seconds: float = 30) -> str:
    text, end = b"", time.monotonic() + seconds
    while wanted.encode() not in text:
        assert time.monotonic() < end, text.decode(errors="replace")
        if select.select([terminal], [], [], 0.2)[0]:
            text += os.read(terminal, 65536)
    return text.decode(errors="replace")


def test_on_a_terminal_ctrl_c_keeps_the_conversation_and_ctrl_d_leaves(served: Any) -> None:
    number, terminal = pty.fork()
    if number == 0:
        os.environ["TERM"] = "dumb"
        os.execv(sys.executable, [sys.executable, "-c", TALK, served.url, ""])
    try:
        read_until(terminal, "> ")
        os.write(terminal, b"half a line\x03")
        read_until(terminal, "> ")
        os.write(terminal, b"Hello\n")
        answer = ask(served, "Hello").split("\n")[0][:4]
        assert answer in read_until(terminal, "> ").replace("\r\n", "\n")
        os.write(terminal, b"/reset\n")
        read_until(terminal, "forgotten")
        read_until(terminal, "> ")
        os.write(terminal, b"\x04")
        assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 0
    finally:
        os.close(terminal)
