"""The chat page in a real browser, on a live server: asked, stopped, branched, kept, compared."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from chat_page import Chatting, give, last_answer, press, say, screenshot, set_field
from easyllm.core.conversations import read_conversations
from easyllm.serve.door.access import Access
from serving_doors import doored

LONG = 140


def test_a_whole_conversation_by_keyboard_alone(chatting: Chatting) -> None:
    page = chatting.page()
    expect(page.locator("#prompt")).to_be_focused()
    press(page, "Escape", "s")
    expect(page.get_by_label("System prompt")).to_be_focused()
    page.keyboard.type("Be brief")
    press(page, "Tab")
    page.keyboard.type("0")
    press(page, "Tab", "Tab")
    page.keyboard.type("9")
    press(page, "Escape", "/")
    page.keyboard.type("Hello")
    press(page, "Shift+Enter")
    page.keyboard.type("sea")
    press(page, "Enter")
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(1)
    expect(page.locator("#prompt")).to_be_focused()
    expect(page.locator("#prompt")).to_have_value("")
    sent = chatting.bodies[-1]
    assert sent["messages"] == [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello\nsea"}]
    assert (sent["temperature"], sent["max_tokens"], sent["model"]) == (0, 9, "tiny-chat")
    assert not {"top_p", "seed", "stop"} & sent.keys()
    say(page, "灯塔")
    assert [message["role"] for message in chatting.bodies[-1]["messages"]] == ["system", "user", "assistant", "user"]
    press(page, "Escape", "n")
    expect(page.locator(".turn")).to_have_count(0)
    page.keyboard.type("A second one")
    press(page, "Enter")
    expect(page.locator("#list li")).to_have_count(2)
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(1)
    press(page, "Escape", "f")
    page.keyboard.type("灯塔")
    expect(page.locator("#list li")).to_have_count(1)
    press(page, "Tab", "Enter")
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.locator("#prompt")).to_be_focused()
    press(page, "ArrowUp")
    expect(page.get_by_label("Your prompt in other words")).to_have_value("灯塔")
    press(page, "Escape")
    expect(page.get_by_role("button", name="Edit").last).to_be_focused()
    press(page, "?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    screenshot(page, "chat-keys")
    press(page, "Escape")


def test_every_number_of_the_settings_reaches_the_server(chatting: Chatting) -> None:
    page = chatting.page()
    wanted = {
        "temperature": 1.5, "top_p": 0.9, "max_tokens": 7, "seed": 3, "top_k": 5, "repetition_penalty": 1.3,
        "frequency_penalty": -0.5, "presence_penalty": 0.25,
    }  # fmt: skip
    labels = ("Temperature", "Top p", "Most tokens", "Seed", "Top k", "Repetition", "Frequency", "Presence")
    for label, value in zip(labels, wanted.values(), strict=True):
        set_field(page, label, str(value))
    screenshot(page, "chat-settings")
    say(page, "Hello")
    assert wanted.items() <= chatting.bodies[-1].items()


def test_stop_ends_the_work_at_the_engine_and_keeps_what_was_said(
    chatting: Chatting, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, made = served.engine.generate, []

    async def slowly(*arguments: Any, **named: Any) -> AsyncGenerator[Any, None]:
        tokens = whole(*arguments, **named)
        try:
            async for token in tokens:
                made.append(token)
                await asyncio.sleep(0.1)  # a big model's pace: 14 seconds for the whole answer
                yield token
        finally:
            await tokens.aclose()

    monkeypatch.setattr(served.engine, "generate", slowly)
    page = chatting.page()
    set_field(page, "Most tokens", str(LONG))
    page.locator("#prompt").fill("Tell me more")
    press(page, "Enter")
    expect(page.locator(".answer .text p").first).not_to_be_empty()
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
    screenshot(page, "chat-streaming")
    press(page, "Escape")
    expect(page.locator(".answer .end")).to_contain_text("Stopped.")
    assert served.idle()
    assert 0 < len(made) < LONG / 2
    assert last_answer(page).strip()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    kept = last_answer(page)
    page.reload()
    expect(page.locator(".answer .end")).to_contain_text("Stopped.")
    assert last_answer(page) == kept


def test_asking_again_and_editing_make_branches_that_stay(chatting: Chatting) -> None:
    page = chatting.brief(chatting.page())
    say(page, "Hello")
    say(page, "And then?")
    set_field(page, "Temperature", "1.5")
    set_field(page, "Seed", "4")
    first = last_answer(page)
    page.locator("[data-do=again]").last.press("Enter")
    expect(page.get_by_text("2 of 2")).to_be_visible()
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(2)
    again = last_answer(page)
    assert again != first
    assert chatting.bodies[-1]["messages"] == chatting.bodies[-2]["messages"]
    page.get_by_role("button", name="The version before").press("Enter")
    expect(page.get_by_text("1 of 2")).to_be_visible()
    assert last_answer(page) == first
    page.get_by_role("button", name="Edit").first.press("Enter")
    page.get_by_label("Your prompt in other words").fill("Good morning")
    press(page, "Enter")
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator(".prompt > .text")).to_have_text("Good morning")
    expect(page.locator(".answer[aria-busy=false]")).to_have_count(1)
    assert chatting.bodies[-1]["messages"] == [{"role": "user", "content": "Good morning"}]
    page.get_by_role("button", name="The version before").press("Enter")
    expect(page.locator(".turn")).to_have_count(2)
    assert last_answer(page) in (first, again)


def test_conversations_outlive_a_reload_and_can_be_renamed_and_deleted(chatting: Chatting) -> None:
    page = chatting.brief(chatting.page())
    say(page, "First words")
    text = last_answer(page)
    page.get_by_role("button", name="New conversation").click()
    say(page, "Other words")
    page.locator("#prompt").fill("half a sen")
    page.reload()
    expect(page.locator("#prompt")).to_have_value("half a sen")
    expect(page.locator("#list .open")).to_have_text(["Other words", "First words"])
    expect(page.get_by_label("Most tokens")).to_have_value("12")
    page.get_by_role("button", name="First words", exact=True).click()
    assert last_answer(page) == text
    page.get_by_role("button", name="Rename “First words”").click()
    page.keyboard.type("The sea")
    press(page, "Enter")
    expect(page.get_by_role("button", name="The sea", exact=True)).to_be_focused()
    page.get_by_role("button", name="Delete “The sea”").click()
    page.get_by_role("button", name="Keep").click()
    page.get_by_role("button", name="Delete “The sea”").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#list .open")).to_have_text(["Other words"])
    second = chatting.open(page.context.new_page())  # another window of the same browser
    expect(second.locator("#list .open")).to_have_text(["Other words"])
    say(second, "A third")
    expect(page.locator(".turn")).to_have_count(2)
    second.get_by_role("button", name="Delete “Other words”").click()
    second.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".turn")).to_have_count(0)


def test_two_models_answer_the_same_prompt_side_by_side(chatting: Chatting, served: Any) -> None:
    access = Access(cors_origins=(chatting.url,))
    with doored(served.desk.loaded, access, about={"name": "tiny-tuned"}) as door:
        other = door.url
        page = chatting.brief(chatting.page())
        chatting.expected.append("violates the following Content Security Policy")
        chatting.expected.append("Fetch API cannot load")
        assert page.evaluate("address => fetch(address).then(() => 'reached', () => 'barred')", other) == "barred"
        page.get_by_label("A second server").fill(f"{other}/v1")
        press(page, "Enter")
        page.wait_for_url("**/chat?other=*")
        page.locator("#compare").select_option(f"tiny-tuned · {other.removeprefix('http://')}")
        say(page, "Hello", answers=2)
        say(page, "灯塔", answers=2)
        bodies = chatting.bodies[-2:]
        assert {body["model"] for body in bodies} == {"tiny-chat", "tiny-tuned"}
        assert all(len(body["messages"]) == 3 for body in bodies)
        left, right = page.locator(".turn").last.locator(".answer").all()
        first, second = left.bounding_box(), right.bounding_box()
        assert first
        assert second
        assert first["y"] == second["y"]
        assert first["x"] + first["width"] < second["x"]
        assert left.locator(".text").inner_text() == right.locator(".text").inner_text()  # the same weights, greedily
        screenshot(page, "chat-two-models")
        with page.expect_download() as downloading:
            page.get_by_role("button", name="Save as rows for finetune").click()
        rows = [json.loads(line) for line in Path(downloading.value.path()).read_text("utf-8").splitlines()]
        assert [row["model"].split(" ")[0] for row in rows] == ["tiny-chat", "tiny-tuned"]
        page.get_by_label("A second server").fill("")
        press(page, "Enter")
        page.wait_for_url("**/chat")
        expect(page.locator("#compare").locator("option")).to_have_count(2)
        chatting.end(other)
    chatting.asked.clear()


def test_rows_saved_by_the_page_train_and_come_back(
    chatting: Chatting, easyllm: Any, tmp_path: Path, serve_model: Path
) -> None:
    page = chatting.brief(chatting.page())
    set_field(page, "System prompt", "Be brief")
    page.locator("#prompt").focus()
    say(page, "Hello\n| a table |")
    say(page, "灯塔")
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Save as rows for finetune").click()
    assert downloading.value.suggested_filename == "Hello.jsonl"
    rows = tmp_path / "rows.jsonl"
    downloading.value.save_as(rows)
    [conversation] = read_conversations([rows], "finetune")
    assert [message["content"] for message in conversation.messages if message["role"] != "assistant"] == [
        "Be brief", "Hello\n| a table |", "灯塔",
    ]  # fmt: skip
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: r\nfinetune: {{base: {serve_model}, data: [rows.jsonl], sequence_tokens: 128}}\n", "utf-8"
    )
    easyllm("check", recipe)
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Save as Markdown").click()
    markdown = Path(downloading.value.path()).read_text("utf-8")
    assert markdown.startswith(
        "# Hello\n\n## System prompt\n\nBe brief\n\n## You\n\nHello\n| a table |\n\n## tiny-chat\n"
    )
    answers = page.locator(".answer .text").all_inner_texts()
    page.get_by_role("button", name="Delete “Hello”").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator(".turn")).to_have_count(0)
    give(page, "rows.jsonl", rows.read_text("utf-8"))
    expect(page.locator(".turn")).to_have_count(2)
    assert page.locator(".answer .text").all_inner_texts() == answers
    expect(page.get_by_label("System prompt")).to_have_value("Be brief")
    give(page, "bad.jsonl", rows.read_text("utf-8") + '{"messages": [{"role": "user", "content": "no answer"}]}\n')
    expect(page.get_by_role("alert")).to_contain_text("bad.jsonl, line 2")
    expect(page.locator("#list .open")).to_have_count(1)
    say(page, "And now?")
    assert len(chatting.bodies[-1]["messages"]) == 6
