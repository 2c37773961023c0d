"""The terminal chat where nothing it needs is there: no server of a model, no answer, no text, no key, no file."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from easyllm.core.errors import UserError
from easyllm.serve.chat import chat
from easyllm.serve.chat_commands import NotDone, obey
from easyllm.serve.talk import Talk, Turn
from web_server import EVENTS, JSON, NO_LISTS, PAGE, web_server

MODELS = json.dumps({"object": "list", "data": [{"id": "m"}]})
PIECE = {"choices": [{"index": 0, "delta": {"content": "hel"}}]}
UNKNOWN_HOME = "~no-such-user-of-easyllm/x"


def stream(*chunks: object) -> str:
    """The events of an answer; a text among them is no JSON."""
    return "".join(f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n" for chunk in chunks)


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def talk() -> Iterator[Talk]:
    with web_server(MODELS, JSON) as url:
        yield Talk(url, None, {})


def said(monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    """Let it be piped in, as it comes in a locale whose text is UTF-8."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))


@pytest.mark.parametrize(("body", "kind"), NO_LISTS)
def test_a_web_server_that_has_no_model_is_told_to_be_none(body: str, kind: str) -> None:
    with web_server(body, kind) as url, pytest.raises(UserError, match=rf"CHAT-001 .*{url}"):
        chat(url, None, 8, 0)


@pytest.mark.parametrize(
    "rest",
    ["{not json", {"choices": [{"index": 0}]}, {"choices": [{"index": 0, "delta": None}]}, {"choices": [7]},
     {"choices": [{"delta": {"content": 5}}]}, [1]],
)  # fmt: skip
def test_an_answer_that_turns_into_something_else_ends_with_one_line(
    rest: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said(monkeypatch, b"hi\n")
    with web_server(MODELS, JSON, stream(PIECE, rest), EVENTS) as url:
        assert chat(url, None, 8, 0) == 1
    out, err = capsys.readouterr()
    assert out == "hel"
    assert err == "The server did not answer: what it says is not the OpenAI API\n"


@pytest.mark.parametrize(("body", "kind"), [("<html>hi</html>", PAGE), ("[]", JSON)])
def test_a_web_page_is_no_answer(
    body: str, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said(monkeypatch, b"hi\n")
    with web_server(MODELS, JSON, body, kind) as url:
        assert chat(url, None, 8, 0) == 1
    assert "not the OpenAI API" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["http://[::1", "http://a..b", "http://h:99999", "http://"])
def test_an_address_that_cannot_be_one_is_refused(target: str) -> None:
    with pytest.raises(UserError, match="CHAT-001"):
        chat(target, None, 8, 0)


def test_a_home_that_nobody_has_is_not_found(talk: Talk) -> None:
    with pytest.raises(UserError, match=f"CHAT-002 .*{UNKNOWN_HOME}"):
        chat(UNKNOWN_HOME, None, 8, 0)
    talk.turns = [Turn("a", {"m": "b"})]
    for line in (f"/load {UNKNOWN_HOME}", f"/save {UNKNOWN_HOME}"):
        with pytest.raises(NotDone, match="No such file"):
            obey(talk, line)


def test_bytes_that_are_no_text_are_refused_and_not_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said(monkeypatch, b"\xff\xfe hi\n")
    with web_server(MODELS, JSON) as url:
        assert chat(url, None, 8, 0) == 2
        assert capsys.readouterr().err.startswith("CHAT-005  \\udcff\\udcfe hi has bytes")
        with pytest.raises(UserError, match="CHAT-005"):
            chat(url, "\udcff", 8, 0)


def test_words_written_anew_may_be_no_text_either(talk: Talk) -> None:
    from easyllm.serve.chat import question_of

    talk.turns = [Turn("a", {"m": "b"})]
    with pytest.raises(NotDone, match="CHAT-005"):
        question_of(talk, "/edit 1", lambda old: old + "\udcff")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"/edit {'9' * 5000} x", "no prompt 99999999999999999999 to edit"),
        (f"/set seed {'9' * 5000}", "seed cannot be 99999999999999999999: it is"),
        ("/load a\0b", "No file can be called 'a.x00b'"),
        ("/save a\0b", "No file can be called 'a.x00b'"),
    ],
)
def test_numbers_and_names_that_python_cannot_take_are_not_done(talk: Talk, line: str, told: str) -> None:
    talk.turns = [Turn("a", {"m": "b"})]
    with pytest.raises(NotDone, match=told):
        obey(talk, line)


@pytest.mark.parametrize(("key", "why"), [("schlüssel", "outside ASCII"), ("a\tb\x07", "not printed"), (" ", "empty")])
def test_a_key_that_no_header_can_hold_is_told_to_be_one(key: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with web_server(MODELS, JSON) as url:
        monkeypatch.setenv("ITS_KEY", key)
        with pytest.raises(UserError, match=rf"CHAT-003 .*ITS_KEY.*{why}") as refused:
            chat(url, None, 8, 0, "ITS_KEY")
        assert key.strip() == "" or key not in str(refused.value)
        monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
        with pytest.raises(UserError, match=r"CHAT-003 .*OPENAI_API_KEY"):
            chat(url, None, 8, 0)


def test_it_ends_with_code_two_and_one_line(easyllm: Any) -> None:
    with web_server("<html>hi</html>", PAGE) as url:
        done = easyllm("chat", url, expect=2, input="hi\n")
    assert done.stderr.count("\n") == 1
