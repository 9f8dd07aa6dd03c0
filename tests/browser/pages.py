"""The page in front of a server that gives canned answers, and what tests look for in any page."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from browser.canned import Canned
from places import ROOT
from playwright.sync_api import BrowserContext, Page, Route

STATIC = ROOT / "ugro/dashboard/static"
AXE = Path(__file__).parent / "vendor/axe.min.js"
PATIENCE = 60_000
"""Milliseconds for what a page waits for: a busy machine is no fault."""

Open = Callable[..., Page]


def open_canned(context: BrowserContext, canned: Canned, address: str) -> Page:
    """Open the page before a server that gives the canned answers."""
    page = context.new_page()
    page.route("http://ugro.test/**", lambda route: _answer(route, canned))
    page.route_web_socket("ws://ugro.test/api/v1/live", canned.connect)
    page.goto(f"http://ugro.test/{address}")
    return page


def _answer(route: Route, canned: Canned) -> None:
    parts = urlsplit(route.request.url)
    if parts.path.startswith("/api/") or parts.path == "/healthz":
        status, body = canned.answer(
            route.request.method, parts.path.removeprefix("/api/v1"), parts.query, route.request
        )
        route.fulfill(status=status, json=body)
        return
    file = STATIC / "index.html" if parts.path == "/" else STATIC / parts.path.removeprefix("/static/")
    if not file.resolve().is_relative_to(STATIC) or not file.is_file():
        route.fulfill(status=404)
        return
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    route.fulfill(body=file.read_bytes(), content_type=kind, headers={"Content-Security-Policy": canned.policy})


def serious(page: Page) -> list[str]:
    """What axe-core finds serious or worse on a page."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    found: dict[str, Any] = page.evaluate("axe.run({resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:150] for node in one['nodes']][:3]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
