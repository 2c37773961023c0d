"""The door: keys on every route, names and origins, and what may never be told."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from easyllm.core.errors import UserError
from easyllm.serve.app import build_app
from easyllm.serve.config import ServeConfig
from easyllm.serve.door.access import Access, access_flags, access_given, access_of, access_problems
from easyllm.serve.door.guard import is_own_name
from easyllm.serve.door.keys import KeyRing
from easyllm.serve.server import parse
from serving_doors import FIRST, SECOND, Doored, doored, write_keys

PAGE = "https://page.example"


@pytest.fixture(scope="module")
def locked(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doored]:
    """Two keys, one page from elsewhere, and a log."""
    folder = tmp_path_factory.mktemp("locked")
    access = Access(write_keys(folder), cors_origins=(PAGE,), request_log=str(folder / "log"))
    with doored(served.desk.loaded, access) as door:
        yield door


@pytest.fixture(scope="module")
def keyless(served: Any) -> Iterator[Doored]:
    with doored(served.desk.loaded, Access(host_names=("llm.example.org",))) as door:
        yield door


def test_every_route_but_health_wants_a_key(locked: Doored) -> None:
    found = [route for route in build_app(locked.desk).routes if isinstance(route, Route)]
    routes = [(route.path, "POST" if "POST" in (route.methods or ()) else "GET") for route in found]
    assert ("/metrics", "GET") in routes
    assert ("/v1/chat/completions", "POST") in routes
    for path, method in [*routes, ("/no/such/route", "GET")]:
        path = path.replace("{name:path}", "tiny-chat")
        answer = locked.ask(path) if method == "POST" else locked.get(path)
        if path in ("/health", "/ping") or (method, path) in (("GET", "/"), ("GET", "/chat")):  # the page asks for it
            assert answer.status_code in (200, 307)
            continue
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()
        if path.startswith("/v1"):
            assert error["error"]["type"] == "authentication_error"
            assert error["error"]["code"] == "invalid_api_key"
        else:
            assert error["error_type"] == "authentication"


def test_each_key_opens_and_nothing_like_it_does(locked: Doored) -> None:
    for key in (FIRST, SECOND):
        assert locked.ask(key=key, tokens=1).status_code == 200
        assert locked.ask("/v1/chat/completions", key, tokens=1).status_code == 200
    for wrong in (FIRST[:-1], FIRST + "x", FIRST.upper(), f"alice:{FIRST}", "alice"):
        assert locked.ask(headers={"Authorization": f"Bearer {wrong}"}).status_code == 401, wrong
    for header in (FIRST, f"Basic {FIRST}", "Bearer"):
        assert locked.ask(headers={"Authorization": header}).status_code == 401, header
    assert locked.ask(headers={"Authorization": f"bearer   {FIRST}"}, tokens=1).status_code == 200


def test_a_key_is_told_nowhere(locked: Doored) -> None:
    locked.ask(key=FIRST, tokens=1)
    locked.ask(key="a-wrong-key-that-is-no-secret")
    told = locked.get("/info", FIRST).text + locked.get("/metrics", FIRST).text
    told += Path(str(locked.desk.access.request_log)).read_text() + repr(vars(locked.desk.keys))
    told += " ".join(access_flags(locked.desk.access))
    assert '"key": "alice"' in told
    for key in (FIRST, SECOND, "a-wrong-key"):
        assert key not in told


def test_openai_and_hub_clients_bring_a_key(locked: Doored) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{locked.url}/v1", api_key=SECOND, max_retries=0)
    answer = client.chat.completions.create(
        model="tiny-chat", messages=[{"role": "user", "content": "a"}], max_tokens=2
    )
    assert answer.usage.completion_tokens >= 1
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key="none", max_retries=0).models.list()


def test_keys_are_read_again_and_a_spoilt_file_changes_nothing(tmp_path: Path) -> None:
    file = write_keys(tmp_path)
    ring = KeyRing(file, None)
    write_keys(tmp_path, "carol:third-key-of-the-tests-0003\n")
    assert (ring.holder(FIRST), ring.read_again()) == ("alice", 1)
    assert (ring.holder(FIRST), ring.holder("third-key-of-the-tests-0003")) == (None, "carol")
    write_keys(tmp_path, "carol:short\n")
    with pytest.raises(UserError, match="SERVE-040"):
        ring.read_again()
    assert ring.holder("third-key-of-the-tests-0003") == "carol"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# none\n", "holds no key"),
        ("\nalice:short\n", "line 2 has 5 characters, fewer than 16"),
        (f":{FIRST}\n", "line 1 has no name"),
        (f"a:{FIRST}\nb:{FIRST}\n", "line 2 has a name or a key for the second time"),
        (f"a:{FIRST}\na:{SECOND}\n", "line 2 has a name or a key for the second time"),
        ("a:with a space in the middle\n", "line 1 has a space"),
        ("a:schlüssel-der-nicht-geht\n", "line 1 has a space or a character outside ASCII"),
    ],
)
def test_a_keys_file_that_says_no_sense_is_refused_without_telling_a_key(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SERVE-040 ") as refused:
        KeyRing(write_keys(tmp_path, text), None)
    assert told in str(refused.value)
    assert FIRST not in str(refused.value)


def test_a_keys_file_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SERVE-041 .*mode 0644.*chmod 600"):
        KeyRing(write_keys(tmp_path, mode=0o644), None)
    KeyRing(write_keys(tmp_path, mode=0o640), None)


def test_keys_come_from_a_variable_too_and_add_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASYLLM_TEST_KEYS", "dave:fourth-key-of-the-tests-04, fifth-key-of-the-tests-0005")
    ring = KeyRing(write_keys(tmp_path), "EASYLLM_TEST_KEYS")
    assert ring.holder("fourth-key-of-the-tests-04") == "dave"
    assert ring.holder("fifth-key-of-the-tests-0005") == "key-2"
    assert ring.holder(FIRST) == "alice"
    monkeypatch.setenv("EASYLLM_TEST_KEYS", f"again:{FIRST}")
    with pytest.raises(UserError, match=r"SERVE-042 .*second time"):
        KeyRing(write_keys(tmp_path), "EASYLLM_TEST_KEYS")


def test_other_machines_are_not_let_in_without_a_key_unless_that_is_said(tmp_path: Path) -> None:
    def codes(host: str, **settings: Any) -> list[str]:
        return [entry.code for entry in access_problems(host, Access(**settings))]

    assert codes("0.0.0.0") == codes("10.0.0.7") == ["SERVE-043"]
    assert codes("127.0.0.1") == codes("::1") == codes("0.0.0.0", open_without_keys=True) == []
    keys = write_keys(tmp_path)
    assert codes("0.0.0.0", keys_file=keys) == []
    assert codes("0.0.0.0", keys_file=keys, open_without_keys=True) == ["SERVE-048"]


def test_flags_of_the_process_say_what_the_recipe_says(tmp_path: Path) -> None:
    config = ServeConfig(
        keys_file=str(tmp_path / "keys"), key_variable="KEYS", open_without_keys=True, requests_per_minute=3,
        tokens_per_minute=4, cors_origins=("http://a", "http://b"), host_names=("c.example",), request_log="stderr",
        log_prompts=True,
    )  # fmt: skip
    needed = "--model m --name n --port 0 --max-total-tokens 9 --max-input-tokens 8 --max-concurrent-requests 1"
    given = parse([*needed.split(), "--drain-seconds", "1", *access_flags(access_of(config))])
    assert access_given(given) == access_of(config)
    assert access_flags(Access()) == []


def test_a_foreign_name_for_this_server_is_refused_where_no_key_is_asked_for(keyless: Doored, locked: Doored) -> None:
    for name in (
        "127.0.0.1:80",
        "localhost:8080",
        "[::1]:8080",
        "serving",
        "LLM.example.org",
        "a.localhost",
        "10.1.2.3",
    ):
        assert keyless.get("/info", Host=name).status_code == 200, name
    for name in (
        "evil.example.com",
        "evil.example.com:8080",
        "127.0.0.1.evil.com",
        "llm.example.org.evil.com",
        "[",
        "",
    ):
        refused = keyless.get("/info", Host=name)
        assert refused.status_code == 421, name
    assert "serve.host_names" in keyless.get("/info", Host="evil.example.com").json()["error"]
    assert keyless.get("/health", Host="evil.example.com").status_code == 200
    assert locked.get("/info", FIRST, Host="evil.example.com").status_code == 200, "without the key it gets nowhere"
    assert not is_own_name("", ())


def test_pages_from_elsewhere_may_not_ask_unless_they_are_named(keyless: Doored, locked: Doored) -> None:
    foreign = keyless.ask(headers={"Origin": PAGE})
    assert (foreign.status_code, foreign.json()["error_type"]) == (403, "permission")
    assert "access-control-allow-origin" not in foreign.headers
    assert keyless.ask("/v1/completions", json={"prompt": "a"}, headers={"Origin": "null"}).status_code == 403
    assert keyless.ask(headers={"Origin": keyless.url}, tokens=1).status_code == 200, "our own page"
    named = locked.ask(key=FIRST, headers={"Origin": PAGE}, tokens=1)
    assert named.status_code == 200
    assert named.headers["access-control-allow-origin"] == PAGE
    assert locked.ask(key=FIRST, headers={"Origin": "https://other.example"}).status_code == 403


def test_a_browser_may_ask_beforehand_without_a_key(locked: Doored) -> None:
    import httpx

    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    url = f"{locked.url}/v1/chat/completions"
    named = httpx.options(url, headers=asks | {"Origin": PAGE}, trust_env=False)
    assert (named.status_code, named.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "authorization" in named.headers["access-control-allow-headers"].lower()
    other = httpx.options(url, headers=asks | {"Origin": "https://other.example"}, trust_env=False)
    assert other.status_code == 400


def test_the_log_is_private_and_a_place_that_cannot_be_written_is_told(locked: Doored, tmp_path: Path) -> None:
    from easyllm.serve.door.requestlog import RequestLog

    assert stat.S_IMODE(os.stat(str(locked.desk.access.request_log)).st_mode) == 0o600
    with pytest.raises(UserError, match=r"SERVE-047 .*no-such-folder"):
        RequestLog(str(tmp_path / "no-such-folder" / "log"))


def test_a_log_that_cannot_be_opened_keeps_no_withdrawn_key_alive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from easyllm.serve.desk import About, Desk
    from easyllm.serve.door.requestlog import RequestLog
    from easyllm.serve.limits import Limits
    from easyllm.serve.server import rereading

    folder = tmp_path / "logs"
    folder.mkdir()
    access = Access(keys_file=write_keys(tmp_path), request_log=str(folder / "log"))
    ring = KeyRing(access.keys_file, None)
    read_again = rereading(Desk(About("m", None, Limits(8, 7, 1)), access, ring, RequestLog(access.request_log)))
    assert read_again
    write_keys(tmp_path, "carol:third-key-of-the-tests-0003\n")
    folder.rename(tmp_path / "moved")
    read_again()
    assert ring.holder(FIRST) is None
    assert "SERVE-047" in capsys.readouterr().err


def test_a_full_disk_ends_no_server_when_the_log_is_opened_again_or_closed(tmp_path: Path) -> None:
    from easyllm.serve.door.accounts import Account
    from easyllm.serve.door.requestlog import RequestLog

    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    log = RequestLog(str(path))
    log.write(Account("id", "POST", "/generate", "alice"))
    path.unlink()
    log.open_again()
    log.write(Account("id", "POST", "/generate", "alice"))
    assert path.read_text().count("\n") == 1
    path.unlink()
    path.symlink_to("/dev/full")
    log.open_again()
    log.write(Account("id", "POST", "/generate", "alice"))
    log.close()
