"""What tests of the chat page share: the page in a browser, on the live server, and who watches what it asks for."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, expect

ROOT = Path(__file__).parent.parent
WAITS_MS = 20_000
MODEL = "tiny-chat"


class Chatting:
    """Pages of one server's /chat, each in a browser profile of its own unless told otherwise."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser, self.url = browser, url
        self.asked: list[str] = []
        """Addresses that pages asked for."""
        self.bodies: list[dict[str, Any]] = []
        """What was posted for answers."""
        self.complaints: list[str] = []
        """What pages wrote to the console, and errors nobody caught."""
        self.expected: list[str] = []
        """Parts of complaints that a test brings about: a browser writes down every refused request."""

    def page(self, wide: int = 1280, high: int = 860, scheme: Any = "light", locale: str = "en-GB") -> Page:
        context = self.browser.new_context(
            viewport={"width": wide, "height": high}, color_scheme=scheme, locale=locale, reduced_motion="reduce"
        )
        context.on("request", self._note)
        context.on("console", lambda message: self.complaints.append(message.text))
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        return self.open(context.new_page())

    def open(self, page: Page, path: str = "/") -> Page:
        page.set_default_timeout(WAITS_MS)
        page.goto(self.url + path)
        page.wait_for_selector("body[data-ready]")
        return page

    def _note(self, request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            self.asked.append(request.url)
        if request.url.endswith("/v1/chat/completions") and request.method == "POST":
            self.bodies.append(request.post_data_json)

    def brief(self, page: Page, tokens: int = 12) -> Page:
        """Answers of a few tokens, always the same for the same prompt."""
        set_field(page, "Most tokens", str(tokens))
        set_field(page, "Temperature", "0")
        page.locator("#prompt").focus()
        return page

    def end(self, *others: str) -> None:
        """Nothing may have left the page's origin and ``others``, and no page may have complained."""
        for context in self.browser.contexts:
            context.close()
        own = tuple(f"{origin}/" for origin in (self.url, *others))
        assert [url for url in self.asked if not url.startswith(own)] == []
        assert [text for text in self.complaints if not any(part in text for part in self.expected)] == []


@pytest.fixture
def chatting(browser: Browser, served: Any) -> Iterator[Chatting]:
    """The page of the tiny model. What a test says was wrong is looked at when it ends."""
    found = Chatting(browser, served.url)
    yield found
    found.end()
    assert served.idle()


def say(page: Page, text: str, answers: int = 1) -> Locator:
    """Type a prompt and send it; the last turn, when all its answers have ended."""
    before = page.locator(".turn").count()
    page.locator("#prompt").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_count(before + 1)
    turn = page.locator(".turn").last
    expect(turn.locator(".answer[aria-busy=false]")).to_have_count(answers)
    return turn


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def last_answer(page: Page) -> str:
    """The text of the last answer, as it was drawn."""
    return page.locator(".turn").last.locator(".answer .text").first.inner_text()


def give(page: Page, name: str, text: str) -> None:
    """Open a file of rows."""
    page.locator("#import-file").set_input_files(
        {"name": name, "mimeType": "application/jsonl", "buffer": text.encode()}
    )


def set_field(page: Page, label: str, value: str) -> None:
    """Write into a field of the settings, which are opened if need be."""
    if not page.locator("#settings").is_visible():
        page.get_by_role("button", name="Settings").click()
    page.get_by_label(label).fill(value)


def screenshot(page: Page, name: str) -> None:
    """Keep what the page looks like, as build output: in $EASYLLM_SCREENSHOTS, else build/screenshots."""
    place = Path(os.environ.get("EASYLLM_SCREENSHOTS") or ROOT / "build" / "screenshots")
    page.screenshot(path=place / f"{name}.png")
