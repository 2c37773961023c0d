"""What the review page looks like: languages, colours, narrow windows, and texts that mean no good."""

import re

from playwright.sync_api import expect

from review_page import HOSTILE, ROWS, Start, press, screenshot, shows


def test_the_page_in_chinese_and_dark(start: Start) -> None:
    review = start(ROWS)
    page = review.page(lang="zh", scheme="dark")
    expect(page.get_by_role("heading", name="第 1 行，共 5 行")).to_be_visible()
    press(page, "j", "j")
    expect(page.locator(".findings")).to_contain_text("个人信息提示种类: 电话号码")
    press(page, "j", "j")
    expect(page.get_by_text("之前最相似的指令")).to_be_visible()
    expect(page.locator(".sides > :first-child mark")).to_have_text(["论"])
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", dark)[:3])) < 64
    screenshot(page, "review-chinese-dark")
    press(page, "t")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert min(map(int, re.findall(r"\d+", light)[:3])) > 192
    screenshot(page, "review-chinese")
    press(page, "r")
    expect(page.get_by_role("button", name="含某人的个人信息")).to_be_visible()
    press(page, "Escape", "l")
    shows(page, 5)
    chinese, english = page.evaluate("import('/page/words.js').then(({WORDS}) => [WORDS.zh, WORDS.en])")
    assert chinese.keys() == english.keys()
    for name, text in english.items():
        assert sorted(re.findall(r"{\w+}", chinese[name])) == sorted(re.findall(r"{\w+}", text)), name
    review.end()


def test_the_page_is_usable_at_400_pixels(start: Start) -> None:
    review = start([*ROWS, *HOSTILE])
    page = review.page(wide=400, high=800)
    screenshot(page, "review-narrow")
    for _ in range(len(ROWS) + len(HOSTILE)):
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        for name in ("Accept", "Edit", "Reject", "Undo", "Previous", "Next"):
            box = page.get_by_role("button", name=name, exact=True).bounding_box()
            assert box is not None
            assert box["height"] >= 32
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 400
        press(page, "j")
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Search").fill("礼貌")
    expect(page.locator("#place")).to_have_text("1 of 1 in this list")
    page.get_by_role("button", name="Accept", exact=True).click()
    expect(page.get_by_role("heading", name="The end of this list")).to_be_visible()
    review.end()


def test_a_hostile_row_is_text_and_nothing_else(start: Start) -> None:
    review = start(HOSTILE)
    page = review.page()
    expect(page.locator(".part.instruction .text")).to_have_text(HOSTILE[0].instruction)
    expect(page.locator(".part.output .unseen-character")).to_have_text(["U+202E", "U+200B"])
    press(page, "j", "j")
    expect(page.get_by_role("button", name="Show all 60,001 characters")).to_be_visible()
    page.get_by_role("button", name="Show all 60,001 characters").press("Enter")
    assert len(page.locator(".part.output .text").inner_text()) >= 60_001
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    press(page, "j")
    expect(page.locator(".findings strong")).to_have_text("<b>odd</b>")
    expect(page.locator(".part.output mark.flag")).to_have_text("x.png")
    assert page.evaluate("window.hacked") is None
    review.end()


def test_duplicates_stand_side_by_side_and_personal_data_is_marked(start: Start) -> None:
    review = start(ROWS)
    page = review.page()
    press(page, "j", "j")
    expect(page.locator(".part.output mark.flag")).to_have_text("555-010-7788")
    press(page, "j")
    expect(page.locator(".sides > :first-child mark")).to_have_text(["three", "small", "town", "household"])
    expect(page.locator(".sides > :last-child mark")).to_have_text(["two", "large", "city", "plastic"])
    screenshot(page, "duplicates")
    review.end()
