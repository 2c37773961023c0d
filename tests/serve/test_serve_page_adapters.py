"""A base beside what was tuned from it, in one view of the page: one server has both."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from chat_page import Chatting, say, screenshot
from serving_adapters import WithAdapters, serving


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WithAdapters]:
    with serving(tmp_path_factory.mktemp("page-adapters"), "llama") as found:
        yield found


def test_a_base_and_its_adapter_answer_side_by_side(tuned: WithAdapters, browser: Browser) -> None:
    chatting = Chatting(browser, tuned.url)
    page = chatting.brief(chatting.page(), tokens=24)
    assert page.locator("#model").locator("option").all_inner_texts() == ["tiny", "blue", "red"]
    expect(page.locator("#model option:checked")).to_have_text("tiny")
    page.locator("#compare").select_option("red")
    turn = say(page, "Hello", answers=2)
    assert {body["model"] for body in chatting.bodies} == {"tiny", "red"}
    for who, answer in zip(("tiny", "red"), turn.locator(".answer").all(), strict=True):
        expect(answer).to_contain_text(who)
    texts = turn.locator(".answer .text").all_inner_texts()
    assert texts[0].strip() != texts[1].strip()
    screenshot(page, "chat-base-and-tuned")
    answers = [body_said(tuned, who) for who in ("tiny", "red")]
    assert ["".join(text.split()) for text in texts] == ["".join(text.split()) for text in answers]
    chatting.end()


def body_said(tuned: WithAdapters, who: str) -> str:
    """What the server says to the same question without the page."""
    asked = {"model": who, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 24}
    return str(tuned.post("/v1/chat/completions", asked).json()["choices"][0]["message"]["content"])
