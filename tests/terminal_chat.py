"""What tests of the terminal chat share: the chat on a pipe, keys on a real terminal, the answer it must show."""

import os
import select
import signal
import subprocess
import sys
import termios
import time
from typing import Any

import httpx

TALK = "import sys; from easyllm.serve.chat import chat; sys.exit(chat(sys.argv[1], sys.argv[2] or None, 24, 0.0))"


def pipe(target: Any, lines: str, system: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TALK, str(target), system]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120, check=False, **options)


def ask(served: Any, *contents: str, system: str = "") -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    opening = [{"role": "system", "content": system}] if system else []
    body = {"messages": opening + messages, "temperature": 0, "max_tokens": 24}
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, trust_env=False, timeout=60).json()
    return str(answer["choices"][0]["message"]["content"])


def read_until(terminal: int, wanted: str, seconds: float = 90) -> str:
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


def exit_code(number: int, seconds: float = 90) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    raise AssertionError("it did not leave")
