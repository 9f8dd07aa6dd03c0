"""Chromium, and pages in it that report each fault: a console error, an exception, a breach of the policy."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import surroundings
from browser.canned import Canned
from browser.pages import PATIENCE, Open, open_canned
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from ugro.testing.testbed.bed import install
from ugro.testing.testbed.errors import TestbedError

SHELL = "chromium-headless-shell"
"""Chromium without its windows, as program and as Debian package. A window is a page of its own, in a process of its
own: of what a test with a new profile costs, that is more than half."""

NAMES = (SHELL, "chromium", "chromium-browser", "google-chrome")
"""What distributions call it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser.

    While it runs, so does a loop of its own in this thread: it ends before the coroutines of other modules.
    """
    program = _program()
    with sync_playwright() as play:
        # Its sandbox needs a user that is not root.
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@functools.cache
def _program() -> str:
    """Return where the browser is. As root it is installed where it is missing; else the tests are skipped."""
    refusal = ""
    if not os.geteuid():
        try:
            install(lambda: "" if shutil.which(SHELL) else SHELL, surroundings.GIVEN, "browser test")
        except TestbedError as error:
            refusal = str(error)
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    if refusal:
        pytest.fail(refusal)
    pytest.skip(f"chromium is not installed (Debian: sudo apt-get install {SHELL})")


@pytest.fixture
def faults() -> Iterator[list[str]]:
    """What went wrong in the pages of a test: nothing may. A test takes from it what it expects."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture
def context(chromium: Browser, faults: list[str], request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A new profile; `@pytest.mark.parametrize("context", [{…}], indirect=True)` has its settings."""
    made = chromium.new_context(**({"viewport": {"width": 1280, "height": 900}} | getattr(request, "param", {})))
    made.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE / 2)
    watch(made, faults)
    yield made
    made.close()


def watch(context: BrowserContext, faults: list[str]) -> None:
    """Note the faults of all pages in a profile."""

    def listen(page: Page) -> None:
        page.on("pageerror", lambda error: faults.append(f"exception: {error}"))
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)

    context.on("page", listen)


@pytest.fixture
def canned() -> Canned:
    """A server's answers, which the test fills in."""
    return Canned()


@pytest.fixture
def opened(context: BrowserContext, canned: Canned) -> Open:
    """Open the page at an address such as `#/jobs`, before a server that gives the canned answers."""
    return lambda address="": open_canned(context, canned, address)
