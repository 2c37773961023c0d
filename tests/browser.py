"""A real Chromium for tests of pages.

It is the machine's own, or Debian's, installed here where we are root. Where there is none, tests skip; in CI they
fail.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PACKAGES = ("chromium", "fonts-wqy-microhei")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-extensions", "--disable-sync", "--no-first-run",
)  # fmt: skip

# What a page is to show; the five seconds that playwright waits are too few beside another process of tests.
expect.set_options(timeout=30_000)


def chromium() -> str:
    """The program; installed where it is missing and may be. Skips, or fails in CI, where there is none."""
    if found := _found():
        return found
    why = "no Chromium on this machine"
    if shutil.which("apt-get") and os.geteuid() == 0:
        with FileLock(Path(tempfile.gettempdir(), "easyllm-tests-apt.lock")):  # another process may be at it
            why = _found() or _install()
        if found := _found():
            return found
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def _install() -> str:
    """Debian's packages; why it failed, where it did."""
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:  # the lists of packages may be missing, or old
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
        done = subprocess.run(install, capture_output=True, text=True, check=False)
    return f"Chromium cannot be installed: {done.stderr.strip()[-300:]}"


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
