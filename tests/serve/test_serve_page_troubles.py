"""What the chat page says when a server refuses, is busy, wants a key or is gone; and what the routes give away."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Route, expect

from chat_page import Chatting, press, say, screenshot, set_field
from easyllm.serve.door.access import Access
from easyllm.serve.page_routes import OPEN_PATHS, ORIGIN, PAGE, is_open
from serving_doors import FIRST, doored, write_keys


def test_a_key_is_asked_for_and_kept_for_this_window_only(chatting: Chatting, served: Any, tmp_path: Path) -> None:
    with doored(served.desk.loaded, Access(write_keys(tmp_path))) as door:
        locked = Chatting(chatting.browser, door.url)
        locked.expected.append("401")
        page = locked.page()
        dialog = page.get_by_role("dialog", name="This server wants an API key")
        expect(dialog).to_be_visible()
        page.keyboard.type("wrong")
        press(page, "Enter")
        expect(dialog).to_be_visible()
        expect(page.locator("#key-text")).to_have_value("")
        screenshot(page, "chat-key")
        page.keyboard.type(FIRST)
        press(page, "Enter")
        expect(dialog).to_be_hidden()
        expect(page.locator("#model")).to_have_text("tiny-chat")
        locked.brief(page)
        say(page, "Hello")
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
        assert kept.index(FIRST) > kept.index("},{")
        page.reload()
        expect(page.locator("#model")).to_have_text("tiny-chat")
        page.evaluate("sessionStorage.setItem('easyllm.key.', 'changed')")
        page.reload()
        expect(dialog).to_be_visible()
        locked.end()


def test_a_busy_server_says_when_to_come_back_and_the_words_stay(chatting: Chatting, served: Any) -> None:
    page = chatting.brief(chatting.page())
    chatting.expected.append("429")
    places = range(served.desk.about.limits.concurrent_requests)
    for _ in places:
        served.desk.queue.running += 1
    try:
        turn = say(page, "Hello")
        expect(turn.locator(".problem")).to_have_text("The server is busy. Try again in 1 s.")
        screenshot(page, "chat-busy")
    finally:
        for _ in places:
            served.desk.queue.leave()
    turn.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer .text p").first).to_be_visible()
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator(".prompt > .text")).to_have_text("Hello")


@pytest.mark.parametrize("way", ["Try again", "Ask again", "Edit"])
def test_a_failed_turn_asked_again_leaves_what_was_said_after_it(chatting: Chatting, way: str) -> None:
    page = chatting.brief(chatting.page(), tokens=4)
    chatting.expected.append("ERR_FAILED")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    say(page, "One fails")
    page.unroute("**/v1/chat/completions")
    say(page, "Two")
    say(page, "Three")
    page.get_by_role("button", name=way).first.click()
    if way == "Edit":
        page.get_by_label("Your prompt in other words").press("Enter")
    expect(page.get_by_text("2 of 2")).to_be_visible()
    expect(page.locator(".answer[aria-busy=false] .text p")).to_have_count(1)
    page.reload()
    page.get_by_role("button", name="The version before").click()
    expect(page.locator(".prompt > .text")).to_have_text(["One fails", "Two", "Three"])


def test_a_page_that_may_not_ask_is_told_so_and_no_key_is_asked_for(chatting: Chatting) -> None:
    page = chatting.brief(chatting.page())
    chatting.expected.append("403")

    def as_from_elsewhere(route: Route) -> None:
        elsewhere = {"Origin": "https://elsewhere.example"}
        answer = httpx.post(route.request.url, json=route.request.post_data_json, headers=elsewhere, trust_env=False)
        route.fulfill(status=answer.status_code, body=answer.content, headers={"Content-Type": "application/json"})

    page.route("**/v1/chat/completions", as_from_elsewhere)
    turn = say(page, "Hello")
    expect(turn.locator(".problem")).to_contain_text("pages of https://elsewhere.example may not ask this server")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_prompt_that_is_too_long_is_shortened_by_editing(chatting: Chatting) -> None:
    page = chatting.brief(chatting.page())
    chatting.expected.append("status of 4")
    turn = say(page, "灯塔的光" * 100)
    expect(turn.locator(".problem")).to_contain_text("This is too long for the model.")
    expect(turn.locator(".problem")).to_contain_text("Given:")
    press(page, "ArrowUp")
    page.get_by_label("Your prompt in other words").fill("灯塔")
    press(page, "Enter")
    expect(page.locator(".answer .text p").first).to_be_visible()
    expect(page.locator(".turn")).to_have_count(1)


def test_a_lost_connection_loses_no_words(chatting: Chatting) -> None:
    page = chatting.brief(chatting.page())
    chatting.expected.append("ERR_INTERNET_DISCONNECTED")
    page.context.set_offline(True)
    turn = say(page, "Are you there?")
    expect(turn.locator(".problem")).to_contain_text("is lost. Your words are kept.")
    page.locator("#prompt").fill("another thought")
    page.context.set_offline(False)
    page.reload()
    expect(page.locator(".prompt > .text")).to_have_text("Are you there?")
    expect(page.locator("#prompt")).to_have_value("another thought")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer .text p").first).to_be_visible()


def test_a_setting_out_of_bounds_is_said_and_nothing_is_sent(chatting: Chatting) -> None:
    page = chatting.brief(chatting.page())
    for label, value, told in [
        ("Temperature", "3", "Temperature: a number from 0 to 2."),
        ("Top p", "0", "Top p: a number from 0.01 to 1."),
        ("Most tokens", "1.5", "Most tokens: a whole number from 1 to"),
        ("Stop at", "a\nb\nc\nd\ne", "At most 4 texts to stop at."),
    ]:
        before = page.get_by_label(label).input_value()
        set_field(page, label, value)
        expect(page.locator("#settings-problem")).to_contain_text(told)
        page.locator("#prompt").fill("Hello")
        press(page, "Enter")
        expect(page.get_by_label(label)).to_be_focused()
        expect(page.locator("#prompt")).to_have_value("Hello")
        set_field(page, label, before)
    assert chatting.bodies == []
    set_field(page, "Stop at", "the sea\n###")
    page.locator("#prompt").focus()
    say(page, "Hello")
    assert chatting.bodies[-1]["stop"] == ["the sea", "###"]


@pytest.mark.parametrize("other", ["http://my_host:8080", "http://a;b"])
def test_an_address_no_policy_can_hold_is_neither_remembered_nor_sent(chatting: Chatting, other: str) -> None:
    page = chatting.brief(chatting.page())
    page.get_by_label("A second server").fill(other)
    press(page, "Enter")
    expect(page.locator("#other-problem")).to_contain_text("Browsers take no name with _ here.")
    assert not page.evaluate("localStorage.getItem('easyllm.other')")
    page.evaluate("address => localStorage.setItem('easyllm.other', address)", other)  # as an older page did
    chatting.open(page, "/chat")
    assert page.url.endswith("/chat")
    expect(page.locator("#model")).to_have_text("tiny-chat")
    assert page.evaluate("localStorage.getItem('easyllm.other')") == ""


def test_the_page_and_the_server_take_the_same_addresses() -> None:
    in_javascript = ORIGIN.pattern.replace("/", r"\/")
    assert f"/^{in_javascript}$/" in (PAGE / "server.js").read_text("utf-8")


def test_the_pages_files_are_open_and_hold_nothing_of_the_model(served: Any) -> None:
    with httpx.Client(base_url=served.url, trust_env=False, timeout=60) as client:
        first = client.get("/")
        assert (first.status_code, first.headers["location"]) == (307, "chat")
        page = client.get("/chat")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "connect-src 'self';" in policy
        assert "unsafe" not in policy
        for path in OPEN_PATHS:
            answer = client.get(path)
            assert answer.status_code in (200, 307), path
            assert "tiny-chat" not in answer.text, path
        assert (
            client.post("/", json={"inputs": "a", "parameters": {"max_new_tokens": 2}}).status_code == 200
        )  # POST / is still TGI's
        assert client.get("/chat/page/../page_routes.py").status_code == 404
        assert client.get("/chat/page/nothing.js").status_code == 404
    assert not is_open("POST", "/")
    assert not is_open("GET", "/v1/models")
    assert not is_open("GET", "/chat/page/nothing.js")


@pytest.mark.parametrize("other", ["http://127.0.0.1:9", "https://[::1]:8443", "https://models.example.org"])
def test_the_policy_allows_the_one_other_server_that_was_named(served: Any, other: str) -> None:
    page = httpx.get(f"{served.url}/chat", params={"other": other}, trust_env=False)
    assert f"connect-src 'self' {other};" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    "other",
    ["", "*", "https:", "http://a b", "http://a;script-src *", "http://my_host:8080", "http://a/path", "ftp://a"],
)
def test_nothing_but_an_origin_gets_into_the_policy(served: Any, other: str) -> None:
    page = httpx.get(f"{served.url}/chat", params={"other": other}, trust_env=False)
    assert page.status_code == 422
    assert "content-security-policy" not in page.headers
