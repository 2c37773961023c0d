"""The terminal chat, piped and on a real terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

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


def at_prompt(terminal: int) -> str:
    """What was shown up to the prompt; returns when keys reach the line editor, not the terminal driver."""
    text = read_until(terminal, "> ")
    while termios.tcgetattr(terminal)[3] & termios.ICANON:
        time.sleep(0.02)
    time.sleep(0.2)
    return text


def exit_code(number: int, seconds: float = 30) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    raise AssertionError("it did not leave")


@pytest.mark.timeout(150)
def test_on_a_terminal_ctrl_c_keeps_the_conversation_and_ctrl_d_leaves(served: Any) -> None:
    answer = ask(served, "Hello").split("\n")[0][:4]
    number, terminal = pty.fork()
    if number == 0:
        os.environ["TERM"] = "dumb"
        os.execv(sys.executable, [sys.executable, "-c", TALK, served.url, ""])
    try:
        at_prompt(terminal)
        os.write(terminal, b"half a line\x03")
        at_prompt(terminal)
        os.write(terminal, b"Hello\n")
        assert answer in at_prompt(terminal).replace("\r\n", "\n")
        os.write(terminal, b"/reset\n")
        assert "forgotten" in at_prompt(terminal)
        os.write(terminal, b"\x04")
    finally:
        code = exit_code(number)
        os.close(terminal)
    assert code == 0
