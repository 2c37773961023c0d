"""The terminal chat's commands, against the live server: in this process, piped, and on a real terminal."""

import json
import os
import pty
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.conversations import read_conversations
from easyllm.core.errors import UserError
from easyllm.serve.chat import chat
from easyllm.serve.chat_commands import NotDone, obey
from easyllm.serve.door.access import Access
from easyllm.serve.talk import Question, Talk, Turn
from serving_doors import FIRST, doored, write_keys
from terminal_chat import TALK, ask, at_prompt, exit_code, read_until

GREEDY = {"max_tokens": 24, "temperature": 0}


@contextmanager
def in_turn(served: Any) -> Iterator[None]:
    """The engine's answers slowed to a tenth of a second a token, so that one can be stopped halfway."""
    whole = served.engine.generate

    async def slowly(*arguments: Any, **named: Any) -> Any:
        import asyncio

        tokens = whole(*arguments, **named)
        try:
            async for token in tokens:
                await asyncio.sleep(0.1)
                yield token
        finally:
            await tokens.aclose()

    served.engine.generate = slowly
    try:
        yield
    finally:
        del served.engine.generate


def put(talk: Talk, question: Question | None) -> dict[str, str]:
    """Ask; what each model answered."""
    assert question
    for _ in talk.answer(question):
        pass
    return talk.turns[-1].answers


def test_settings_and_system_prompt_reach_the_server(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk(served.url, None, {"max_tokens": 24, "temperature": 0.7})
    for line in ("/set temperature 0", "/system Be brief"):
        assert obey(talk, line) is None
    assert put(talk, Question("Hello")) == {"tiny-chat": ask(served, "Hello", system="Be brief")}
    obey(talk, "/set max_tokens 3")
    obey(talk, "/set seed 5")
    obey(talk, "/set top_p 0.9")
    assert talk.settings == {"max_tokens": 3, "temperature": 0, "seed": 5, "top_p": 0.9}
    obey(talk, "/set temperature -")
    obey(talk, "/system -")
    assert "temperature" not in talk.settings
    assert talk.system == ""
    assert "temperature (the server's) · top_p 0.9 · max_tokens 3 · seed 5" in capsys.readouterr().err


def test_numbers_that_openais_api_does_not_know_reach_a_server_that_does(served: Any) -> None:
    said = []
    for line in ("/set top_k 1", "/set repetition_penalty 50"):
        talk = Talk(served.url, None, {"max_tokens": 24, "temperature": 1.9, "seed": 1, "top_k": 1})
        obey(talk, line)
        said.append(put(talk, Question("Hello"))["tiny-chat"])
    assert said[0] == ask(served, "Hello")
    assert said[1] != said[0]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/set temperature 3", "temperature cannot be 3: it is a number from 0 to 2"),
        ("/set temperature nan", "cannot be nan"),
        ("/set max_tokens 1.5", "whole number from 1 to"),
        ("/set seed", "seed cannot be -"),
        ("/set voice 3", "only: temperature, top_p, max_tokens, seed, top_k, repetition_penalty, frequency"),
        ("/sing", "no command /sing"),
        ("/regenerate", "Nothing has been said yet"),
        ("/edit 1 words", "no prompt 1 to edit; so far there are 0"),
        ("/save", "/save FILE"),
        ("/load", "/load FILE"),
        ("/load /no/such/file.jsonl", "No such file"),
        ("/model gpt-9", "no model gpt-9, only: tiny-chat"),
        ("/compare tiny-chat", "answers already"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(served: Any, line: str, told: str) -> None:
    talk = Talk(served.url, None, GREEDY)
    with pytest.raises(NotDone, match=told.replace(".", r"\.")):
        obey(talk, line)
    assert (talk.settings, talk.turns, talk.system, talk.beside) == (GREEDY, [], "", None)


def test_regenerate_and_edit_take_the_place_of_what_was_said(served: Any) -> None:
    talk = Talk(served.url, None, GREEDY)
    first = put(talk, Question("Hello"))
    put(talk, Question("灯塔"))
    talk.settings |= {"temperature": 1.5, "seed": 3}
    again = put(talk, obey(talk, "/regenerate"))
    assert [turn.prompt for turn in talk.turns] == ["Hello", "灯塔"]
    talk.settings = dict(GREEDY)
    assert put(talk, obey(talk, "/regenerate")) != again
    put(talk, obey(talk, "/edit 2 the sea"))
    assert talk.turns[-1] == Turn("the sea", {"tiny-chat": ask(served, "Hello", first["tiny-chat"], "the sea")})
    put(talk, obey(talk, "/edit 1", lambda old: f"{old}!"))
    assert [turn.prompt for turn in talk.turns] == ["Hello!"]
    with pytest.raises(NotDone, match="/edit 1 TEXT"):
        obey(talk, "/edit 1")
    assert obey(talk, "//etc is what?") == Question("/etc is what?")


def test_a_failed_question_leaves_the_conversation_as_it_was(served: Any) -> None:
    import openai

    talk = Talk(served.url, None, GREEDY)
    put(talk, Question("Hello"))
    before = list(talk.turns)
    with pytest.raises(openai.OpenAIError):
        put(talk, obey(talk, "/edit 1 " + "灯塔的光" * 100))
    assert talk.turns == before


def test_saved_rows_train_and_load_again(served: Any, tmp_path: Path) -> None:
    talk = Talk(served.url, "Be brief", GREEDY)
    put(talk, Question("Hello"))
    put(talk, Question("灯塔"))
    file = tmp_path / "rows.jsonl"
    obey(talk, f"/save {file}")
    obey(talk, "/reset")
    put(talk, Question("Other"))
    obey(talk, f"/save {file}")
    rows = list(read_conversations([file], "finetune"))
    assert [len(row.messages) for row in rows] == [5, 3]
    fresh = Talk(served.url, None, GREEDY)
    obey(fresh, f"/load {file}")
    assert (fresh.system, fresh.turns) == ("Be brief", talk.turns)
    file.write_text('{"messages": [{"role": "user", "content": "a"}]}\n', "utf-8")
    with pytest.raises(NotDone, match="DATA-002"):
        obey(fresh, f"/load {file}")
    file.write_text("", "utf-8")
    with pytest.raises(NotDone, match="holds no row"):
        obey(fresh, f"/load {file}")
    twice = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]
    file.write_text(json.dumps({"messages": twice}) + "\n", "utf-8")
    with pytest.raises(NotDone, match="row 1 user and assistant do not take turns"):
        obey(fresh, f"/load {file}")
    with pytest.raises(NotDone, match="Not saved"):
        obey(fresh, f"/save {tmp_path}")
    assert fresh.turns == talk.turns


def test_two_models_answer_one_after_the_other_each_in_its_own_history(served: Any, tmp_path: Path) -> None:
    talk = Talk(served.url, None, GREEDY)
    talk.models.append("tgi")  # the same weights by another name, which the server knows
    obey(talk, "/compare tgi")
    found = put(talk, Question("Hello"))
    assert list(found) == ["tiny-chat", "tgi"]
    talk.turns = [Turn("Hello", {"tiny-chat": "the sea", "tgi": "the ship"})]
    found = put(talk, Question("灯塔"))
    assert found == {
        "tiny-chat": ask(served, "Hello", "the sea", "灯塔"),
        "tgi": ask(served, "Hello", "the ship", "灯塔"),
    }
    assert found["tiny-chat"] != found["tgi"]
    obey(talk, f"/save {tmp_path / 'rows.jsonl'}")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert [(row["model"], row["messages"][1]["content"]) for row in rows] == [
        ("tiny-chat", "the sea"),
        ("tgi", "the ship"),
    ]
    obey(talk, "/model tgi")
    assert talk.asked() == ["tgi"]


def test_a_key_comes_from_the_environment(served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with doored(served.desk.loaded, Access(write_keys(tmp_path))) as door:
        url = door.url
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(UserError, match=r"CHAT-004 .*OPENAI_API_KEY"):
            Talk(url, None, GREEDY)
        monkeypatch.setenv("OPENAI_API_KEY", FIRST)
        assert Talk(url, None, GREEDY).models == ["tiny-chat"]
        monkeypatch.setenv("SHIP_KEY", "mouse")
        with pytest.raises(UserError, match="CHAT-004"):
            Talk(url, None, GREEDY, "SHIP_KEY")
        monkeypatch.delenv("SHIP_KEY")
        with pytest.raises(UserError, match=r"CHAT-003 .*SHIP_KEY"):
            chat(url, None, 8, 0, "SHIP_KEY")


def test_commands_work_piped_and_a_wrong_one_ends_with_two(served: Any, easyllm: Any, tmp_path: Path) -> None:
    first = ask(served, "Hello")
    lines = f"Hello\n/regenerate\n/save {tmp_path / 'r.jsonl'}\n/set temperature 9\nnever\n"
    done = easyllm("chat", served.url, "--max-tokens", "24", "--temperature", "0", expect=2, input=lines)
    assert done.stdout == f"{first}\n{first}\n"
    assert "temperature cannot be 9" in done.stderr
    assert "Traceback" not in done.stderr
    assert len((tmp_path / "r.jsonl").read_text("utf-8").splitlines()) == 1


@pytest.mark.timeout(150)
def test_on_a_terminal_ctrl_c_ends_the_answer_only_and_edit_offers_the_old_words(served: Any, tmp_path: Path) -> None:
    number, terminal = pty.fork()
    if number == 0:
        os.environ["TERM"] = "dumb"
        os.execv(sys.executable, [sys.executable, "-c", TALK, served.url, ""])
    try:
        at_prompt(terminal)
        with in_turn(served):
            os.write(terminal, b"Hello\n")
            read_until(terminal, "Hello\r\n")
            threading.Event().wait(1)  # some tokens
            os.write(terminal, b"\x03")
            assert "(stopped)" in at_prompt(terminal)
            assert served.idle()
        os.write(terminal, b"/edit 1\n")
        read_until(terminal, "~ Hello")
        os.write(terminal, b" you\n")
        at_prompt(terminal)
        os.write(terminal, f"/save {tmp_path / 'r.jsonl'}\n".encode())
        assert "1 row" in at_prompt(terminal)
        os.write(terminal, b"/exit\n")
    finally:
        code = exit_code(number)
        os.close(terminal)
    assert code == 0
    [row] = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text("utf-8").splitlines()]
    assert [message["content"] for message in row["messages"]] == ["Hello you", ask(served, "Hello you")]
