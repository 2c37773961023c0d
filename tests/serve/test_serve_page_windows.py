"""The chat page in two windows of one browser, and in a browser without room: nothing said is lost."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from chat_page import Chatting, give, press, say, set_field

HEAR = """() => {
  delete document.documentElement.dataset.heard;
  addEventListener('storage', ({key}) => {
    if (key.startsWith('easyllm.chat.')) document.documentElement.dataset.heard = 'yes';
  });
}"""
STORED = """() => Object.entries(localStorage).filter(([name]) => name.startsWith('easyllm.chat.'))
  .map(([, text]) => JSON.parse(text))"""
FILL = """() => {
  for (let size = 1 << 20, at = 0; size >= 1; at += 1) {
    try { localStorage.setItem(`fill${at}`, 'y'.repeat(size)); } catch { size >>= 1; }
  }
}"""
BEHIND = """title => {
  const name = Object.keys(localStorage).find((one) => one.startsWith('easyllm.chat.'));
  localStorage.setItem(name, JSON.stringify({...JSON.parse(localStorage.getItem(name)), title}));
  dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}));
}"""


@contextmanager
def hearing(page: Page) -> Iterator[None]:
    """What another window stores within has reached the page at the end; the page's own listener stands before ours."""
    page.evaluate(HEAR)
    yield
    expect(page.locator("html[data-heard]")).to_have_count(1)


def stored(page: Page) -> dict[str, list[str]]:
    """The prompts of every conversation that the browser keeps, by its name or its first prompt."""
    found: list[dict[str, Any]] = page.evaluate(STORED)
    prompts = [[turn["prompt"] for turn in one["turns"]] for one in found]
    return {one["title"] or said[0]: said for one, said in zip(found, prompts, strict=True) if said}


def bring(page: Page, text: str) -> None:
    """Open a file with one conversation: the smallest thing that a window stores."""
    pair = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes"}]
    give(page, "row.jsonl", json.dumps({"messages": pair}))
    expect(page.locator(".prompt > .text")).to_have_text([text])


def begin(page: Page, text: str) -> list[Route]:
    """Ask for an answer that stays under way until its request is let through."""
    held: list[Route] = []
    page.route("**/v1/chat/completions", lambda route: held.append(route))
    page.locator("#prompt").fill(text)
    press(page, "Enter")
    expect(page.locator(".answer[aria-busy=true]")).to_have_count(1)
    return held


def let_through(page: Page, held: list[Route]) -> None:
    for route in held:
        route.continue_()
    page.unroute("**/v1/chat/completions")
    expect(page.locator("#stop")).to_be_hidden()


def show(page: Page, title: str) -> None:
    page.get_by_role("button", name=title, exact=True).click()


def delete(page: Page, title: str) -> None:
    page.get_by_role("button", name=f"Delete “{title}”").click()
    page.get_by_role("button", name="Delete", exact=True).click()


def begun(chatting: Chatting, *prompts: str) -> Page:
    """A window with a conversation for each prompt; the last is shown."""
    page = chatting.brief(chatting.page(), tokens=4)
    for at, prompt in enumerate(prompts):
        if at:
            page.get_by_role("button", name="New conversation").click()
        say(page, prompt)
    return page


def test_an_edit_that_is_open_while_another_window_stores_replaces_its_own_turn(chatting: Chatting) -> None:
    page = begun(chatting, "One")
    chatting.expected.append("ERR_FAILED")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    say(page, "Two fails")
    page.unroute("**/v1/chat/completions")
    page.locator("[data-do=again]").first.click()
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(1)
    page.get_by_role("button", name="The version before").click()
    expect(page.locator(".turn")).to_have_count(2)
    press(page, "Escape", "e")
    page.get_by_label("Your prompt in other words").fill("Two")
    other = chatting.open(page.context.new_page())
    with hearing(page):
        bring(other, "Elsewhere")
    page.get_by_label("Your prompt in other words").press("Enter")
    expect(page.locator(".prompt > .text")).to_have_text(["One", "Two"])
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(2)
    assert stored(page)["One"] == ["One", "One", "Two"]


def test_what_another_window_says_while_an_answer_is_under_way_is_seen_and_stays(chatting: Chatting) -> None:
    page = begun(chatting, "B one", "A one")
    other = chatting.open(page.context.new_page())
    show(other, "B one")
    held = begin(page, "A two")
    with hearing(page):
        say(other, "B two")
    other.close()
    show(page, "B one")
    expect(page.locator(".prompt > .text")).to_have_text(["B one", "B two"])
    show(page, "A one")
    let_through(page, held)
    show(page, "B one")
    page.locator("#prompt").fill("half a sen")
    page.reload()
    expect(page.locator("#prompt")).to_have_value("half a sen")
    assert stored(page) == {"A one": ["A one", "A two"], "B one": ["B one", "B two"]}


def test_two_windows_can_ask_in_the_same_conversation_at_once(chatting: Chatting) -> None:
    page = begun(chatting, "One")
    other = chatting.open(page.context.new_page())
    held = begin(page, "Two here")
    expect(other.locator(".prompt > .text")).to_have_text(["One", "Two here"])
    show(page, "One")  # an answer that is under way goes on in what is drawn anew
    other.locator("[data-do=edit]").last.click()
    other.get_by_label("Your prompt in other words").fill("Two there")
    press(other, "Enter")
    expect(other.locator(".prompt > .text")).to_have_text(["One", "Two there"])
    expect(other.locator(".answer[aria-busy=false]")).to_have_count(2)
    let_through(page, held)
    expect(page.locator(".turn").last.locator(".text p").first).not_to_be_empty()
    expect(page.get_by_text("2 of 2")).to_be_visible()
    for window in (page, other):
        expect(window.locator("[data-do^=branch]")).to_have_count(2)
    assert sorted(stored(page)["One"]) == ["One", "Two here", "Two there"]
    assert all(answer["text"] for turn in page.evaluate(STORED)[0]["turns"] for answer in turn["answers"])


def test_a_conversation_deleted_in_another_window_stops_and_stays_deleted(chatting: Chatting) -> None:
    page = begun(chatting, "B one", "A one")
    other = chatting.open(page.context.new_page())
    begin(page, "A two")
    expect(other.locator(".turn")).to_have_count(2)
    delete(other, "A one")
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator(".prompt > .text")).to_have_text(["B one"])
    expect(page.locator("#list .open")).to_have_text(["B one"])
    page.reload()
    assert stored(page).keys() == {"B one"}


def test_renaming_and_deleting_do_what_they_say_while_another_window_stores(chatting: Chatting) -> None:
    page = begun(chatting, "Oldest", "Keep me", "Current")
    other = chatting.open(page.context.new_page())
    page.get_by_role("button", name="Rename “Current”").click()
    page.get_by_label("New name").fill("Renamed")
    with hearing(page):
        bring(other, "Second")
    page.get_by_label("New name").press("Enter")
    expect(page.locator("#list .open")).to_have_text(["Second", "Renamed", "Keep me", "Oldest"])
    page.get_by_role("button", name="Delete “Renamed”").click()
    with hearing(page):
        bring(other, "Third")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#list .open")).to_have_text(["Third", "Second", "Keep me", "Oldest"])
    page.reload()
    expect(page.locator("#list .open")).to_have_text(["Third", "Second", "Keep me", "Oldest"])
    assert stored(page).keys() == {"Third", "Second", "Keep me", "Oldest"}


def test_a_number_half_written_outlives_what_another_window_sets(chatting: Chatting) -> None:
    page = begun(chatting, "One")
    other = chatting.open(page.context.new_page())
    page.get_by_label("Temperature").fill("")
    page.keyboard.type("0.")
    with hearing(page):
        set_field(other, "Top p", "0.9")
    expect(page.get_by_label("Temperature")).to_be_focused()
    page.keyboard.type("5")
    expect(page.get_by_label("Temperature")).to_have_value("0.5")
    expect(page.get_by_label("Top p")).to_have_value("0.9")
    [one] = page.evaluate(STORED)
    assert (one["settings"]["temperature"], one["settings"]["top_p"]) == ("0.5", "0.9")


def test_a_page_that_comes_back_has_what_was_stored_without_it(chatting: Chatting) -> None:
    page = begun(chatting, "One")
    page.evaluate(BEHIND, "Named elsewhere")
    expect(page.locator("#list .open")).to_have_text(["Named elsewhere"])


def test_a_turn_the_browser_had_no_room_for_stays_when_another_window_stores(chatting: Chatting) -> None:
    page = begun(chatting, "First")
    chatting.expected.append("status of 4")  # what fills the browser is too long for the model
    other = chatting.open(page.context.new_page())
    page.evaluate(FILL)
    say(page, f"Second {'z' * 3000}")
    expect(page.get_by_role("alert")).to_contain_text("The browser keeps no more.")
    assert stored(page) == {"First": ["First"]}
    other.evaluate("localStorage.removeItem('fill0')")
    with hearing(page):
        bring(other, "Elsewhere")
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.get_by_role("alert")).to_be_hidden()
    page.reload()
    expect(page.locator(".turn")).to_have_count(2)


def test_room_that_a_deletion_makes_is_used_for_what_had_none(chatting: Chatting) -> None:
    page = begun(chatting, "Short")
    bring(page, f"Big\n{'b' * 20_000}")
    page.evaluate(FILL)
    page.get_by_role("button", name="New conversation").click()
    say(page, "Unsaved")
    expect(page.get_by_role("alert")).to_contain_text("The browser keeps no more.")
    assert "Unsaved" not in stored(page)
    delete(page, "Big")
    expect(page.get_by_role("alert")).to_be_hidden()
    page.reload()
    expect(page.locator("#list .open")).to_have_text(["Unsaved", "Short"])


@pytest.mark.parametrize("deleted", ["B one", "A one"])
def test_deleting_stops_the_answers_of_what_is_deleted_and_no_others(chatting: Chatting, deleted: str) -> None:
    page = begun(chatting, "B one", "A one")
    held = begin(page, "A two")
    show(page, "B one")
    delete(page, deleted)
    expect(page.locator("#list .open")).to_have_count(1)
    if deleted == "A one":
        expect(page.locator("#stop")).to_be_hidden()
        return
    expect(page.locator(".answer[aria-busy=true]")).to_have_count(1)
    let_through(page, held)
    expect(page.locator(".turn").last.locator(".text p").first).not_to_be_empty()
