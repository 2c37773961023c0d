"""What the chat page looks like: languages, colours, narrow windows, Markdown, and texts that mean no good."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

import easyllm.serve
from chat_page import Chatting, give, press, say, screenshot

PAGE = Path(easyllm.serve.__file__).with_name("page")

TIDES = """Twice a day the sea rises and falls. **Why?** Because the Moon pulls at it:

1. The water *nearest* to the Moon is pulled most.
2. The Earth turns below that bulge:
   - one high tide every `12 h 25 min`
   - one low tide between

| Where | Range |
|---|---|
| Bay of Fundy | 16 m |
| Baltic Sea | 0.2 m |

```python
def hours(tides: int) -> float:
    return tides * 12.42  # <b>not bold</b>
```

> See [the almanac](https://tides.example.org/fundy), or ask again."""

CHINESE = """潮汐是海水的周期性涨落，主要由**月球引力**引起。

- 大潮：朔、望之后
- 小潮：上弦、下弦之后

每昼夜约有两次高潮和两次低潮，相隔约 `12 小时 25 分`。"""

HOSTILE = [
    "<img src=x onerror='window.hacked=1'><script>window.hacked=2</script>",
    "[click](javascript:window.hacked=3) [data](data:text/html,x) ![picture](http://203.0.113.7/x.png)",
    "[bank.example](http://203.0.113.7/steal) http://203.0.113.7/bare.",
    "```<img src=x onerror='window.hacked=4'>\nx\n```\n| <b>a</b> | b |\n|---|---|\n| <i>c</i> | d |",
    "\u202eolleh\u200b " + "x" * 50_000,
]
SLOW = [
    "[" * 60_000, "*a" * 40_000, "`" * 60_000, "_" * 60_000, "> " * 30_000, "- " * 30_000, "|" * 60_000, "**a *b " *
    15_000, "http://" * 9_000, "\\" * 60_000, " - x\n" * 8_000, "[a](" * 15_000, "```\n" * 15_000, "|a|b|\n|-" *
    9_000, "\n" * 60_000, "1. a\n\n" * 5_000,
]  # fmt: skip


def row(*contents: str) -> str:
    roles = ("user", "assistant")
    return json.dumps({"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]}) + "\n"


COLOUR = """([element, name]) => {
  const pixel = new OffscreenCanvas(1, 1).getContext('2d');
  pixel.fillStyle = getComputedStyle(document.querySelector(element))[name];
  pixel.fillRect(0, 0, 1, 1);
  return [...pixel.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}"""
TIMED = """async text => {
  const {markdown} = await import('/chat/page/markdown.js');
  const began = performance.now();
  markdown(text);
  return performance.now() - began;
}"""
TOLD = """async texts => {
  const {teller} = await import('/chat/page/speak.js');
  const voice = teller();
  for (const text of texts) voice.add(text);
  voice.end(`${texts.at(-1)} on`);
  return [...document.getElementById('told').children].map((part) => part.textContent);
}"""
UNNAMED = """[...document.querySelectorAll('button, input, select, textarea')].filter((one) => one.checkVisibility()
  && !(one.getAttribute('aria-label') || one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)"""


def colour(page: Page, element: str, name: str = "color") -> list[int]:
    """Red, green and blue as they are drawn, whatever the style sheet mixes them from."""
    return [int(value) for value in page.evaluate(COLOUR, [element, name])]


def contrast(one: list[int], other: list[int]) -> float:
    """As WCAG 2.2 defines it."""

    def luminance(rgb: list[int]) -> float:
        parts = [value / 255 for value in rgb]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_markdown_is_drawn_and_code_can_be_copied(chatting: Chatting) -> None:
    page = chatting.page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    give(page, "tides.jsonl", row("Why are there tides?", TIDES))
    answer = page.locator(".answer .text")
    expect(answer.locator("strong")).to_have_text("Why?")
    expect(answer.locator("ol > li > ul > li")).to_have_count(2)
    expect(answer.locator("tbody td")).to_have_text(["Bay of Fundy", "16 m", "Baltic Sea", "0.2 m"])
    expect(answer.locator("blockquote a")).to_have_attribute("href", "https://tides.example.org/fundy")
    expect(answer.locator("blockquote")).to_contain_text("the almanac (tides.example.org)")
    page.get_by_role("button", name="Copy this code").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "def hours(tides: int) -> float:\n    return tides * 12.42  # <b>not bold</b>"
    page.get_by_role("button", name="Copy", exact=True).click()
    assert page.evaluate("navigator.clipboard.readText()") == TIDES
    screenshot(page, "chat")


def test_a_link_begins_at_its_own_bracket(chatting: Chatting) -> None:
    page = chatting.page()
    text = (
        "As in [1], see [docs](https://e.com/x), [part [2] there](https://e.com/y) and a[0] + [site](https://e.com/z)"
    )
    give(page, "links.jsonl", row("Where?", text))
    expect(page.locator(".answer .text a")).to_have_text(["docs", "part [2] there", "site"])
    expect(page.locator(".answer .text")).to_contain_text("As in [1], see docs (e.com)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_light_and_in_dark(chatting: Chatting, scheme: str) -> None:
    page = chatting.page(scheme=scheme)
    give(page, "tides.jsonl", row("Why are there tides?", TIDES))
    press(page, "Escape", "s")
    for words, ground in [
        ("body", "body"), (".prompt > .text", ".prompt > .text"), (".answer .text", ".answer"),
        (".answer h3", ".answer"), (".answer .tools span", ".answer"), (".text a", ".answer"), (".code-head", ".code"),
        ("#send", "#send"), ("#hint", "footer"), ("#settings label > span", "body"), (".tools button", "body"),
        ("blockquote", ".answer"),
    ]:  # fmt: skip
        seen = contrast(colour(page, words), colour(page, ground, "backgroundColor"))
        assert seen >= 4.5, (words, seen)
    focused = contrast(colour(page, ":focus-visible", "outlineColor"), colour(page, "body", "backgroundColor"))
    assert focused >= 3, focused


def test_the_page_in_chinese_and_dark(chatting: Chatting) -> None:
    page = chatting.page(locale="zh-CN", scheme="dark")
    expect(page.get_by_role("heading", name="想知道些什么？")).to_be_visible()
    give(page, "潮汐.jsonl", row("潮汐是怎么来的？", CHINESE))
    expect(page.get_by_role("button", name="重新回答")).to_be_visible()
    assert max(colour(page, "body", "backgroundColor")) < 64
    press(page, "Escape", "s")
    screenshot(page, "chat-chinese-dark")
    press(page, "Escape", "t")
    assert min(colour(page, "body", "backgroundColor")) > 192
    press(page, "l")
    expect(page.get_by_role("button", name="Ask again")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Ask again")).to_be_visible()
    assert min(colour(page, "body", "backgroundColor")) > 192


def test_both_languages_have_every_text_that_the_page_says(chatting: Chatting) -> None:
    page = chatting.page()
    chinese, english = page.evaluate("import('/chat/page/words.js').then(({WORDS}) => [WORDS.zh, WORDS.en])")
    assert chinese.keys() == english.keys()
    for name, text in english.items():
        assert sorted(re.findall(r"{\w+}", chinese[name])) == sorted(re.findall(r"{\w+}", text)), name
    sources = "".join(path.read_text("utf-8") for path in PAGE.iterdir() if path.suffix in (".js", ".html"))
    said = set(re.findall(r'(?:say\(|data-say=|data-label=)"(\w+)"', sources))
    assert said <= english.keys(), said - english.keys()


def test_the_page_is_usable_at_400_pixels(chatting: Chatting) -> None:
    page = chatting.page(wide=400, high=800)
    hostile = "".join(row("h", text) for text in HOSTILE)
    give(page, "all.jsonl", row("Why are there tides?", TIDES) + row("潮汐", CHINESE) + hostile)
    screenshot(page, "chat-narrow")
    for at in range(2 + len(HOSTILE)):
        page.get_by_role("button", name="Conversations").click()
        page.locator("#list .open").nth(at).click()
        expect(page.locator("#side")).to_be_hidden()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, at
        for name in ("Conversations", "Settings", "Send", "Edit", "Ask again"):
            box = page.get_by_role("button", name=name, exact=True).bounding_box()
            assert box is not None
            assert box["height"] >= 28
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 400
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Most tokens").fill("8")
    screenshot(page, "chat-narrow-settings")
    press(page, "Escape")
    expect(page.locator("#settings")).to_be_hidden()
    page.get_by_role("button", name="Conversations").click()
    screenshot(page, "chat-narrow-list")
    page.get_by_role("button", name="New conversation").click()
    page.locator("#compare").select_option("tiny-chat")
    say(page, "Hello", answers=2)
    first, second = (answer.bounding_box() for answer in page.locator(".answer").all())
    assert first
    assert second
    assert first["y"] + first["height"] <= second["y"]
    screenshot(page, "chat-narrow-two")


def test_a_hostile_answer_is_text_and_nothing_else(chatting: Chatting) -> None:
    page = chatting.page()
    contents = [part for text in HOSTILE for part in (f"<b>{text[:40]}</b>", text)]
    give(page, "hostile.jsonl", row(*contents))
    answers = page.locator(".answer .text")
    expect(answers).to_have_count(len(HOSTILE))
    assert page.locator("#thread :is(img, script, b, i, iframe, svg)").count() == 0
    expect(answers.nth(0)).to_have_text(HOSTILE[0])
    expect(answers.nth(1)).to_contain_text(HOSTILE[1])
    expect(answers.nth(2).locator("a").first).to_have_attribute("href", "http://203.0.113.7/steal")
    expect(answers.nth(2)).to_contain_text("bank.example (203.0.113.7)")
    assert {link.get_attribute("rel") for link in page.locator("#thread a").all()} == {"noopener noreferrer nofollow"}
    assert all("203.0.113.7" in str(link.get_attribute("href")) for link in page.locator("#thread a").all())
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert page.evaluate("window.hacked") is None
    screenshot(page, "chat-hostile")


def test_no_text_holds_the_page_up(chatting: Chatting) -> None:
    page = chatting.page()
    for text in SLOW:
        taken = page.evaluate(TIMED, text)
        assert taken < 3000, (text[:8], taken)


def test_single_keys_can_be_switched_off_and_an_answer_is_told_in_sentences(chatting: Chatting) -> None:
    page = chatting.page()
    press(page, "Escape", "?")
    page.get_by_label("Single keys work").press("Space")
    press(page, "Escape", "s")
    expect(page.locator("#settings")).to_be_hidden()
    told = page.evaluate(TOLD, ["Pi is 3.14. And", "Pi is 3.14. And that is all! So"])
    assert told == ["Pi is 3.14.", "And that is all!", "So on"]
    assert page.evaluate(UNNAMED) == []
