"""Chromium, and pages in it that report each fault: a console error, an exception, a breach of the policy."""

from __future__ import annotations

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

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""What distributions call it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser. As root it is installed where it is missing; else the tests are skipped.

    While it runs, so does a loop of its own in this thread: it ends before the coroutines of other modules.
    """
    if not _missing():
        pass
    elif os.geteuid():
        pytest.skip("chromium is not installed (Debian: sudo apt-get install chromium)")
    else:
        try:
            install(_missing, surroundings.GIVEN, "browser test")
        except TestbedError as error:
            pytest.fail(str(error))
    with sync_playwright() as play:
        # Its sandbox needs a user that is not root.
        browser = play.chromium.launch(executable_path=_found(), args=["--no-sandbox"])
        yield browser
        browser.close()


def _found() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def _missing() -> str:
    return "" if _found() else "chromium"


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
