"""A real Chromium for tests of pages, and a reviewer who sits before it.

The browser is the machine's own, or Debian's, installed here where we are root. Where there is none, tests skip; in
CI they fail. It reaches the page's own origin and nothing else.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from easyllm.instruct.review.decisions import Gate, gate
from easyllm.instruct.review.folder import find
from easyllm.instruct.review.log import Entry, Log

ROOT = Path(__file__).parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PACKAGES = ("chromium", "fonts-wqy-microhei")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-extensions", "--disable-sync", "--no-first-run",
)  # fmt: skip
STARTS_MS = 20_000


def chromium() -> str:
    """The program; installed where it is missing and may be. Skips, or fails in CI, where there is none."""
    if found := _found():
        return found
    why = "no Chromium on this machine"
    if shutil.which("apt-get") and os.geteuid() == 0:
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:  # the lists of packages may be missing, or old
            subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
            done = subprocess.run(install, capture_output=True, text=True, check=False)
        if found := _found():
            return found
        why = f"Chromium cannot be installed: {done.stderr.strip()[-300:]}"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def _found() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a module; every reviewer gets a fresh profile in it."""
    program = chromium()
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield found
        found.close()


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
