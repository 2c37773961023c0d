"""What tests of the review page share: rows, the real ``easyllm review`` behind it, and a reviewer's keys."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from easyllm.instruct.review.decisions import Gate, gate
from easyllm.instruct.review.folder import find
from easyllm.instruct.review.log import Entry, Log
from easyllm.instruct.row import Finding, Row
from reviewing import to_review

ROOT = Path(__file__).parent.parent
STARTS_MS = 20_000

OTHER = "Name two ways in which a large city can reduce the amount of plastic waste it produces."
ROWS = [
    Row("Explain why the sky is blue to a child.", "", "Air scatters blue light most.\n\nAt sunset, red is left.",
        language="en", score=5, nearest={"rouge_l": 0.31, "instruction": "Explain how rain is made."}),
    Row("把下面的句子改写得更礼貌。", "把文件发给我，快点。", "麻烦您方便的时候把文件发给我，好吗？非常感谢！",
        is_classification=False, language="zh", score=4),
    Row("Write a thank-you note to a colleague.", "", "Dear Sam, thank you! My number is 555-010-7788.",
        language="en", origin="evolved", score=3,
        findings=(Finding("personal_data", False, {"kinds": ["telephone number"], "found": ["555-010-7788"]}),)),
    Row("Name three ways in which a small town can reduce the amount of household waste it produces.", "",
        "1. Compost.\n2. Open a repair café.\n3. Charge by weight.", language="en", score=4,
        findings=(Finding("near_duplicate", False, {"rouge_l": 0.69, "other": OTHER}),)),
    Row("判断下面这条评论的情感是正面还是负面。", "房间很干净，就是早餐品种少了一点。", "正面",
        is_classification=True, language="zh", score=5,
        nearest={"rouge_l": 0.66, "instruction": "判断下面这条影评的情感是正面还是负面，并说明理由。"}),
]  # fmt: skip

HOSTILE = [
    Row("<script>window.hacked=1</script><img src=x onerror='window.hacked=2'>", "", "\u202eolleh\u200b <b>bold</b>"),
    Row("اكتب جملة قصيرة عن البحر.", "", "البحر واسع وجميل.", language="ar"),
    Row("long", "", "x" * 50_000 + "y" + " word" * 2_000, language="not a code"),
    Row("Load it: http://203.0.113.7/x.png", "", "![picture](http://203.0.113.7/x.png)", findings=(
        Finding("<b>odd</b>", True, {"<i>": {"deep": ["x.png", None, 3]}}),)),
]  # fmt: skip


class Reviewing:
    """``easyllm review FOLDER`` in a process of its own, and the pages that are open on it."""

    def __init__(self, browser: Browser | None, folder: Path, author: str, *options: str) -> None:
        self.folder, self.browser = find(folder), browser
        self.strayed: list[str] = []
        """Addresses of other origins that a page asked for."""
        self.complaints: list[str] = []
        """What pages wrote to the console."""
        command = [sys.executable, "-m", "easyllm", "review", str(folder), "--author", author, "--no-open", *options]
        environment = {**os.environ, "EASYLLM_LANG": "en", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.origin, _, self.token = self.url.partition("/?token=")
        assert self.token, self.process.communicate()

    def page(self, lang: str = "en", wide: int = 1280, high: int = 860, scheme: Any = "light") -> Page:
        """The page, ready, in a browser profile of its own."""
        assert self.browser
        context = self.browser.new_context(viewport={"width": wide, "height": high}, color_scheme=scheme)
        context.route("**/*", self._own_only)
        page = context.new_page()
        page.set_default_timeout(STARTS_MS)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"{self.url}&lang={lang}")
        page.wait_for_selector("body[data-ready]")
        return page

    def _own_only(self, route: Route) -> None:
        if route.request.url.startswith(self.origin + "/") or route.request.url == "data:,":
            route.continue_()
        else:
            self.strayed.append(route.request.url)
            route.abort()

    def entries(self) -> list[Entry]:
        """What the log holds."""
        return Log(self.folder.log_file).read()

    def gate(self) -> Gate:
        return gate(self.folder.rows(), self.entries())

    def end(self) -> str:
        """Ctrl-C; what it said on stderr. It must end cleanly, and no page may have complained or strayed."""
        for context in self.browser.contexts if self.browser else ():
            context.close()
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, err
        assert not self.token or self.token not in err + out
        assert (self.strayed, self.complaints) == ([], [])
        return err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def screenshot(page: Page, name: str) -> None:
    """Keep what the page looks like, as build output: in $EASYLLM_SCREENSHOTS, else build/screenshots."""
    place = Path(os.environ.get("EASYLLM_SCREENSHOTS") or ROOT / "build" / "screenshots")
    page.screenshot(path=place / f"{name}.png")


Start = Callable[..., Reviewing]


@pytest.fixture
def start(browser: Browser, tmp_path: Path) -> Iterator[Start]:
    """``start(rows, author, *options)``: a review of ``rows``; again without rows: another reviewer of the same."""
    begun: list[Reviewing] = []

    def review(rows: list[Row] | None, author: str = "anna", *options: str) -> Reviewing:
        folder = to_review(tmp_path / "made", rows) if rows else tmp_path / "made"
        begun.append(Reviewing(browser, folder, author, *options))
        return begun[-1]

    yield review
    for reviewing in begun:
        if reviewing.process.poll() is None:
            reviewing.kill()


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def rewrite(page: Page, output: str) -> None:
    """Open the row's editor and put other words in its output's place."""
    press(page, "e")
    expect(page.get_by_label("Output")).to_be_focused()
    press(page, "ControlOrMeta+a")
    page.keyboard.insert_text(output)


def shows(page: Page, number: int | str, total: int | str = len(ROWS)) -> None:
    expect(page.get_by_role("heading", name=f"Row {number} of {total}", exact=True)).to_be_visible()
