"""Whom the server of the review page answers, and what: asked without a browser, on the real command."""

import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from easyllm.instruct.row import Row
from review_page import Reviewing
from reviewing import to_review

ROWS = [Row(f"Count to {count}.", "", "One, two.", language="en") for count in range(40)]
ASKED = {"error_rate": 0.05, "confidence": 0.95}


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewing]:
    found = Reviewing(None, to_review(tmp_path_factory.mktemp("made"), ROWS), "anna")
    yield found
    if found.process.poll() is None:
        found.kill()


@pytest.fixture
def ask(review: Reviewing) -> Iterator[httpx.Client]:
    """The page as the server knows it."""
    headers = {"Authorization": f"Bearer {review.token}", "Origin": review.origin}
    with httpx.Client(base_url=review.origin, headers=headers, trust_env=False) as client:
        yield client


def bare(review: Reviewing, method: str, path: str, **headers: str) -> httpx.Response:
    return httpx.request(method, review.origin + path, headers=headers, trust_env=False)


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/api/start", "/api/rows?numbers=1", "/api/nothing"])
def test_without_the_token_nothing_is_answered(review: Reviewing, path: str) -> None:
    assert bare(review, "GET", path).status_code == 403
    assert bare(review, "GET", path, Authorization="Bearer wrong").status_code == 403
    joint = "&" if "?" in path else "?"
    assert bare(review, "GET", f"{path}{joint}token=wrong").status_code == 403
    assert bare(review, "GET", f"{path}{joint}token=%ff%00").status_code == 403


def test_another_name_for_this_machine_is_refused(review: Reviewing) -> None:
    """A page elsewhere may make its own name mean 127.0.0.1: it would send that name."""
    path = f"/api/start?token={review.token}"
    port = review.origin.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "[::1", ""):
        assert bare(review, "GET", path, Host=host).status_code == 403, host
    assert bare(review, "GET", path, Host="localhost:9999").status_code == 200  # an SSH tunnel's other port


def test_only_the_page_itself_may_decide(review: Reviewing, ask: httpx.Client) -> None:
    decision = {"row": ROWS[0].id, "verdict": "accept"}
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", review.origin.replace("http", "https")):
        assert ask.post("/api/decide", json=decision, headers={"Origin": origin}).status_code == 403
    nowhere = {"Authorization": f"Bearer {review.token}"}
    assert httpx.post(f"{review.origin}/api/decide", json=decision, headers=nowhere, trust_env=False).status_code == 403
    assert ask.get("/api/decide").status_code == 405
    assert review.entries() == []


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_site_gets(review: Reviewing) -> None:
    with httpx.Client(base_url=review.origin, trust_env=False) as client:
        page = client.get(f"/?token={review.token}")
        cookie = page.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert client.get("/api/start").status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    assert "http" not in page.text.replace("http-equiv", "")  # nothing from elsewhere, not even a link
    assert review.token not in page.text


def test_only_this_machine_is_listened_to(review: Reviewing) -> None:
    port = int(review.origin.rpartition(":")[2])
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    bound = [
        line.split()[1] for line in listening if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert bound == [f"0100007F:{port:04X}"]


WRONG: list[tuple[dict[str, Any], int]] = [
    ({"row": "0" * 32, "verdict": "accept"}, 404),
    ({"row": ROWS[0].id, "verdict": "burn"}, 400),
    ({"row": ROWS[0].id, "verdict": "accept", "author": "bo"}, 400),
    ({"row": ROWS[0].id, "verdict": "edit"}, 400),
    ({"row": ROWS[0].id, "verdict": "edit", "edited": {"instruction": "a", "input": "", "output": " "}}, 400),
    ({}, 400),
]


@pytest.mark.parametrize(("body", "status"), WRONG)
def test_what_is_no_decision_is_refused_and_not_logged(
    review: Reviewing, ask: httpx.Client, body: dict[str, Any], status: int
) -> None:
    before = review.entries()
    assert ask.post("/api/decide", json=body).status_code == status
    assert ask.post("/api/decide", content=b"{").status_code == 400
    assert ask.post("/api/decide", json=[1]).status_code == 400
    assert review.entries() == before


def test_a_lot_is_not_accepted_before_its_sample_is_decided(review: Reviewing, ask: httpx.Client) -> None:
    assert ask.post("/api/accept-lot", json=ASKED).json()["code"] == "too_early"
    plan = ask.get("/api/plan", params=ASKED).json()
    assert 0 < len(plan["numbers"]) == plan["needed"] == plan["left"] < len(ROWS)
    assert ask.get("/api/plan", params={"error_rate": 0, "confidence": 0.9}).status_code == 400
    assert not any(entry.verdict == "accept-lot" for entry in review.entries())


def test_undo_goes_back_through_ones_own_decisions(review: Reviewing, ask: httpx.Client) -> None:
    for row, verdict in [(ROWS[3], "accept"), (ROWS[4], "reject")]:
        answer = ask.post("/api/decide", json={"row": row.id, "verdict": verdict}).json()
        assert answer["row"]["by"]["anna"]["verdict"] == verdict
    assert ask.get("/api/find", params={"state": "rejected"}).json() == {"numbers": [4]}
    assert [ask.post("/api/undo", json={}).json()["row"]["number"] for _ in range(2)] == [4, 3]
    assert ask.post("/api/undo", json={}).json()["row"] is None
    assert not review.gate().accepted


def test_a_broken_line_of_the_log_is_told_with_its_number(review: Reviewing, ask: httpx.Client) -> None:
    log = review.folder.log_file
    kept = log.read_bytes()
    log.write_bytes(kept + b"no decision\n")
    answer = ask.get("/api/standing")
    assert answer.status_code == 409
    assert answer.json()["code"] == "REVIEW-004"
    assert f"{log}:{len(kept.splitlines()) + 1}" in answer.json()["error"]
    log.write_bytes(kept)
    assert ask.get("/api/standing").status_code == 200


def test_rows_that_are_gone_are_told_and_come_back(review: Reviewing, ask: httpx.Client) -> None:
    rows = review.folder.rows_file
    away = rows.rename(rows.with_suffix(".away"))
    answer = ask.post("/api/decide", json={"row": ROWS[0].id, "verdict": "accept"})
    assert answer.status_code == 409
    assert str(rows) in answer.json()["error"]
    away.rename(rows)
    assert ask.get("/api/standing").json()["counts"]["undecided"] == len(ROWS)


def test_a_port_that_is_taken_is_refused_with_the_way_out(review: Reviewing) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "easyllm", "--lang", "zh", "review", str(review.folder.rows_file.parent)]
        options = ["--port", str(taken.getsockname()[1]), "--no-open"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("REVIEW-020  审核页面无法监听本机端口")


def test_the_browser_is_led_to_the_page_without_the_token_among_its_arguments(
    tmp_path: Path, review: Reviewing
) -> None:
    """A browser of a few lines keeps its arguments, and what the file that it is handed says."""
    fake = tmp_path / "browser"
    fake.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncp -p "${{1#file://}}" {tmp_path}/opened\n')
    fake.chmod(0o755)
    command = [sys.executable, "-m", "easyllm", "review", str(review.folder.rows_file), "--open"]
    environment = {"PATH": "/usr/bin:/bin", "BROWSER": str(fake), "EASYLLM_LANG": "en", "USER": "anna"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert process.stderr is not None
    process.stderr.readline()
    for _ in range(100):
        if (tmp_path / "opened").exists():
            break
        time.sleep(0.1)
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert url in (tmp_path / "opened").read_text()
    assert url.partition("token=")[2] not in (tmp_path / "arguments").read_text()
    assert stat.S_IMODE((tmp_path / "opened").stat().st_mode) & 0o077 == 0
