"""The terminal chat, piped and on a real terminal."""

import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest

from terminal_chat import TALK, ask, at_prompt, exit_code, pipe


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
