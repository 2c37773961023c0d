"""`easyllm serve URL --self-test`: what it finds at our server, at llama.cpp's, and at ones that break their word."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from easyllm.core.errors import UserError
from easyllm.serve.selftest.outcome import Outcome
from easyllm.serve.selftest.server import Server
from easyllm.serve.selftest.verb import CHECKS, outcome_of, self_test
from faulty_server import KEY, faulty_server
from web_server import NO_LISTS, web_server

NAMES = [check.name for check in CHECKS]
ELSEWHERE = {"usage": ("usage of streams",), "seed": ("seed is dead",), "logprobs": ("logprobs are wrong",),
             "POST /": ("POST / streamed",)}  # fmt: skip
"""Further ways to break a check."""


def outcomes(url: str, key_variable: str | None = None, model: str | None = None) -> dict[str, str]:
    found = self_test(url, key_variable, model, None)
    return {entry["check"]: entry["outcome"] for entry in found["checks"]}


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ITS_KEY", KEY)
    return "ITS_KEY"


def test_a_server_that_keeps_the_contract_passes_every_check(key: str) -> None:
    with faulty_server(key=KEY) as url:
        found = self_test(url, key, None, None)
    assert [entry for entry in found["checks"] if entry["outcome"] != "holds"] == []
    assert (found["holds"], found["model"], found["url"]) == (True, "words", url)
    assert [entry["check"] for entry in found["checks"]] == NAMES
    assert all(entry["seen"] for entry in found["checks"])


FAULTS = [(name, name) for name in NAMES] + [(name, fault) for name, more in ELSEWHERE.items() for fault in more]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_each_check_fails_where_the_server_breaks_that_part(name: str, fault: str) -> None:
    (check,) = [check for check in CHECKS if check.name == name]
    with faulty_server(fault, key=KEY) as url, closing(Server(url, KEY, "words")) as server:
        found = outcome_of(check, server)
    assert found.state == "broken", found.seen
    assert found.seen


def test_what_a_server_has_no_route_for_is_not_offered_and_no_fault() -> None:
    missing = ["no /generate", "no /generate_stream", "no /", "no /info", "no /tokenize", "no /metrics"]
    with faulty_server(*missing) as url:
        found = outcomes(url)
    none = {name for name, outcome in found.items() if outcome == "not offered"}
    assert none == {check.name for check in CHECKS if check.api == "TGI"} | {"metrics", "keys"}
    assert "broken" not in found.values()
    with faulty_server("no /v1/chat/completions", "no /v1/models") as url:
        found = outcomes(url, model="words")
    assert found["stop string"] == found["disconnect"] == "not offered"
    assert found["details"] == "holds"


def test_what_does_not_speak_either_api_is_refused() -> None:
    with faulty_server("no /v1/chat/completions", "no /generate") as url, pytest.raises(UserError, match="SERVE-073"):
        self_test(url, None, None, None)


@pytest.mark.parametrize(("body", "kind"), NO_LISTS)
def test_a_web_server_that_has_no_model_is_refused_after_the_table(body: str, kind: str) -> None:
    told: list[str] = []
    with web_server(body, kind) as url, pytest.raises(UserError, match=rf"SERVE-073 .*{url}"):
        self_test(url, None, None, told.append)
    assert len(told) == len(CHECKS)


def test_a_server_whose_answers_are_broken_still_gets_its_table() -> None:
    with faulty_server("chat", "no /generate") as url:
        assert outcomes(url)["chat"] == "broken"


def test_a_server_that_does_not_live_to_the_end_still_gets_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(server: Server) -> list[Outcome]:
        server.close()  # whatever is asked from now on is a traceback
        return [Outcome("OpenAI", "chat", "holds", "-"), Outcome("TGI", "generate", "broken", "-")]

    monkeypatch.setattr("easyllm.serve.selftest.verb.examine", examine)
    with faulty_server() as url:
        assert self_test(url, None, None, None)["model"] == "words"


def test_no_address_no_server_and_no_key_are_told_apart(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("localhost:8080", "http://", "http://me:secret@host", "runs/demo", "http://a..b", "http://[::1"):
        with pytest.raises(UserError, match="SERVE-070") as refused:
            self_test(asked, None, None, None)
        assert "secret" not in str(refused.value)
    with pytest.raises(UserError, match=r"SERVE-071.*127.0.0.1:1:"):
        self_test("http://127.0.0.1:1", None, None, None)
    with faulty_server(key=KEY) as url:
        with pytest.raises(UserError, match=r"SERVE-074.*401 no key.*--key-variable"):
            self_test(url, None, None, None)
        monkeypatch.setenv(key, "another")
        with pytest.raises(UserError, match="SERVE-074"):
            self_test(url, key, None, None)
    with faulty_server("health") as url, pytest.raises(UserError, match="SERVE-079"):
        self_test(url, None, None, None)
    monkeypatch.setenv(key, "schlüssel")
    with pytest.raises(UserError, match=r"SERVE-072.*ITS_KEY.*outside ASCII"):
        self_test("http://127.0.0.1:1", key, None, None)
    monkeypatch.delenv(key)
    with pytest.raises(UserError, match=r"SERVE-072.*ITS_KEY"):
        self_test("http://127.0.0.1:1", key, None, None)


def test_the_command_prints_a_table_or_a_document_and_its_exit_code_tells(easyllm: Any) -> None:
    with faulty_server("metrics") as url:
        table = easyllm("serve", "--self-test", url, expect=1).stdout.splitlines()
        document = json.loads(easyllm("serve", f"{url}/v1/", "--self-test", "--json", expect=1).stdout)
    assert len(table) == len(CHECKS) + 1
    assert table[-1] == f"{len(CHECKS) - 2} hold, 1 broken, 1 not offered."
    (line,) = [line for line in table if " broken " in line and "hold," not in line]
    assert line.split()[:3] == ["server", "metrics", "broken"]
    assert not document["holds"]
    with faulty_server() as url:
        assert "成立" in easyllm("--lang", "zh", "serve", "--self-test", url).stdout


def test_options_that_would_be_ignored_are_refused(easyllm: Any) -> None:
    for words in (["--json"], ["--key-variable", "X"], ["--model", "m"]):
        assert "--self-test" in easyllm("serve", "runs", *words, expect=2).stderr
    assert "serve.port=1" in easyllm("serve", "http://127.0.0.1:1", "serve.port=1", "--self-test", expect=2).stderr


def test_our_own_server_keeps_all_that_it_offers(served: Any) -> None:
    found = self_test(served.url, None, None, None)
    broken = [entry for entry in found["checks"] if entry["outcome"] == "broken"]
    assert broken == []
    none = {entry["check"] for entry in found["checks"] if entry["outcome"] == "not offered"}
    assert none <= {"metrics", "keys"}


@pytest.fixture(scope="module")
def llama_cpp(serve_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp's own server of the tiny model, in this process."""
    import xllamacpp

    from easyllm.export.gguf_files import convert

    gguf = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    convert(serve_model, gguf, "f16", {"eos": 0, "eot": 2})
    wanted: Any = xllamacpp.CommonParams()
    wanted.model.path, wanted.n_ctx, wanted.n_parallel = str(gguf), 1024, 2
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = 1
    wanted.warmup, wanted.verbosity, wanted.ui = False, 0, False
    server = xllamacpp.Server(wanted)
    yield server.listening_address
    del server


def test_llama_cpps_server_offers_one_api_and_answers_for_models_it_does_not_have(llama_cpp: str) -> None:
    found = outcomes(llama_cpp)
    assert [name for name, outcome in found.items() if outcome == "broken"] == ["unknown model"], found
    assert {found[check.name] for check in CHECKS if check.api == "TGI"} == {"not offered"}
    assert found["n"] == found["logprobs"] == found["json_schema"] == found["disconnect"] == "holds"
