"""The review page in a real browser, by keyboard, on the server that ``easyllm review`` starts."""

import re
import time

from playwright.sync_api import expect

from easyllm.instruct.review.log import Decision, Lot
from easyllm.instruct.row import Row
from review_page import ROWS, Start, press, rewrite, screenshot, shows
from reviewing import to_review


def test_a_whole_review_by_keyboard_alone(start: Start) -> None:
    review = start(ROWS)
    page = review.page()
    shows(page, 1)
    screenshot(page, "review")
    press(page, "a")
    shows(page, 2)
    rewrite(page, "请您方便时把文件发给我。")
    press(page, "Escape")  # what was typed is not lost
    shows(page, 2)
    press(page, "e")
    expect(page.get_by_label("Output")).to_have_value("请您方便时把文件发给我。")
    press(page, "Control+Enter")
    shows(page, 3)
    press(page, "r", "8")
    shows(page, 4)
    press(page, "r")
    expect(page.get_by_role("button", name="wrong answer")).to_be_focused()
    page.keyboard.type("too close to another")
    screenshot(page, "reject")
    press(page, "Enter")
    shows(page, 5)
    press(page, "u")
    shows(page, 4)
    expect(page.locator(".state")).to_have_text("undecided")
    press(page, "a", "a")
    expect(page.get_by_role("main")).to_contain_text("Every row is decided.")
    assert page.evaluate("document.getElementById('bar').getAttribute('aria-valuenow')") == "5"
    found = review.gate()
    assert found.whole
    assert [row.output for row in found.accepted][:2] == [ROWS[0].output, "请您方便时把文件发给我。"]
    assert [row.id for row in found.rejected] == [ROWS[2].id]
    assert "4 accepted, 1 rejected, 0 undecided" in review.end()
    told = [(entry.verdict, entry.note, entry.author) for entry in review.entries() if isinstance(entry, Decision)]
    rejected = [("reject", "personal data of someone", "anna"), ("reject", "too close to another", "anna")]
    assert told[2:5] == [*rejected, ("undo", "", "anna")]


def test_filters_and_search_by_keyboard(start: Start) -> None:
    page = start(ROWS).page()
    place = page.locator("#place")
    press(page, "a", "r", "1")
    shows(page, 3)
    press(page, "f", *["ArrowDown"] * 4)
    expect(page.get_by_role("combobox", name="State")).to_have_value("rejected")
    expect(place).to_have_text("1 of 1 in this list")
    press(page, "Escape")
    shows(page, 2)
    press(page, "c", "/")
    page.keyboard.type("SAM")
    press(page, "Enter")
    expect(place).to_have_text("1 of 1 in this list")
    expect(page.locator("mark.hit")).to_have_text(["Sam"])
    assert page.evaluate("document.activeElement.id") == "row"
    for label, value, rows in [("Finding", "personal_data", 1), ("Language", "zh", 2), ("Origin", "evolved", 1)]:
        press(page, "c")
        page.get_by_role("combobox", name=label).select_option(value)
        expect(place).to_have_text(f"1 of {rows} in this list")
    press(page, "c")
    page.get_by_label("Least score").select_option("4")
    page.get_by_label("Most length").fill("100")
    expect(place).to_have_text("1 of 3 in this list")
    page.reload()
    expect(place).to_have_text("1 of 3 in this list")
    assert "token" not in page.url
    press(page, "?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    press(page, "Space", "Escape", "a", "j")  # single keys are off now
    expect(place).to_have_text("1 of 3 in this list")
    page.get_by_role("button", name="Next").press("Enter")
    expect(place).to_have_text("2 of 3 in this list")


def test_a_sample_is_reviewed_and_the_lot_accepted(start: Start) -> None:
    rows = [Row(f"Count to {count}.", "", "One, two.", language="en") for count in range(60)]
    review = start(rows, "anna", "--sample", "0.1")
    page = review.page()
    needed = int(re.findall(r"Sample 0/(\d+)", page.locator("#pace").inner_text())[0])
    press(page, "r", "1")
    expect(page.locator("#pace")).to_contain_text("1 bad")
    grown = int(re.findall(r"Sample 1/(\d+)", page.locator("#pace").inner_text())[0])
    assert needed < grown < 60
    press(page, "p")
    expect(page.get_by_role("button", name="Accept the lot")).to_be_disabled()
    press(page, "Escape", *"a" * (grown - 1), "p")
    accept = page.get_by_role("button", name="Accept the lot")
    expect(accept).to_be_enabled()
    expect(page.locator("#plan-told")).to_contain_text(f"{60 - grown} undecided rows can be accepted")
    screenshot(page, "sample")
    press(page, *["Shift+Tab"] * 1)
    for _ in range(8):
        if accept.evaluate("button => button === document.activeElement"):
            break
        press(page, "Tab")
    press(page, "Enter")
    expect(page.get_by_text("anna accepted the lot")).to_be_visible()
    found = review.gate()
    assert (found.whole, found.how, len(found.accepted), len(found.rejected)) == (True, "lot", 59, 1)
    assert isinstance(review.entries()[-1], Lot)
    page.get_by_role("button", name="Take it back").press("Enter")
    expect(page.get_by_text("anna accepted the lot")).to_be_hidden()
    assert not review.gate().whole
    review.end()


def test_two_reviewers_differ_and_one_follows_the_other(start: Start) -> None:
    anna, bo = start(ROWS), start(None, "bo")
    hers, his = anna.page(), bo.page()
    press(hers, "a")
    shows(hers, 2)
    rewrite(his, "Air scatters blue light.")
    press(his, "Control+Enter")
    shows(his, 2)
    press(hers, "k")
    expect(hers.get_by_text("The reviewers differ")).to_be_visible()  # without a reload: the log is followed
    expect(hers.locator("#counts")).to_contain_text("1 in conflict")
    expect(hers.locator(".decisions del")).to_have_text([" most", "\n\nAt sunset, red is left."])
    screenshot(hers, "conflict")
    assert [row.id for row in anna.gate().conflicts] == [ROWS[0].id]
    press(hers, "o")
    expect(hers.locator("#counts")).not_to_contain_text("conflict")
    expect(his.locator("#counts")).to_contain_text("1 accepted")
    assert anna.gate().accepted[0].output == "Air scatters blue light."
    anna.end()


def test_five_thousand_rows_stay_quick(start: Start) -> None:
    rows = [Row(f"Name {count} facts about bees.", "", "A fact. " * 40, language="en") for count in range(5_000)]
    review = start(rows)
    page = review.page()
    begun = time.monotonic()
    press(page, *"a" * 30)
    shows(page, 31, "5,000")
    assert time.monotonic() - begun < 12  # 0.1 s or less each on a quiet machine
    expect(page.locator("#pace")).to_have_text(re.compile(r"about .* left at your pace"))
    press(page, "/")
    page.keyboard.type("Name 4987 ")
    press(page, "Enter")
    shows(page, "4,988", "5,000")
    press(page, "c", "End")
    shows(page, "5,000", "5,000")
    assert len(review.gate().accepted) == 30
    review.end()


def test_when_the_server_is_gone_the_page_says_so_and_nothing_is_lost(start: Start) -> None:
    review = start(ROWS)
    page = review.page()
    press(page, "a")
    shows(page, 2)
    review.kill()
    press(page, "a")
    expect(page.get_by_role("alert")).to_contain_text("The review has ended")
    shows(page, 2)
    again = start(None)
    shows(again.page(), 2)
    assert [row.id for row in again.gate().accepted] == [ROWS[0].id]


def test_rows_made_anew_are_seen_while_the_page_is_open(start: Start) -> None:
    review = start(ROWS)
    page = review.page()
    press(page, "a")
    shows(page, 2)
    to_review(review.folder.rows_file.parent, ROWS[:3])
    press(page, "a")
    shows(page, 3, 3)
    expect(page.locator("#counts")).to_contain_text("1 undecided")
    review.end()
