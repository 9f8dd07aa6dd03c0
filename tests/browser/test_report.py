"""Tests of `ugro report`: one file that a browser opens offline, whose texts stay text."""

from __future__ import annotations

from pathlib import Path

from browser import canned
from browser.canned import MARKUP
from browser.conftest import watch
from browser.pages import serious
from playwright.sync_api import Browser, expect

from ugro.cli.render.report import report_page

ENDS = f"</script>{MARKUP}<!-- <script>"
"""What would end a script that the text stands in."""


def test_a_report_opens_offline_and_its_texts_stay_text(chromium: Browser, faults: list[str], tmp_path: Path) -> None:
    job = canned.whole(canned.view().jobs["job-002"])
    path = "/jobs/job-002"
    documents = {
        "version": "1",
        "made_at": "2026-11-28T00:00:00.000+00:00",
        "job": job,
        f"{path}/events": canned.events(),
        f"{path}/explain": canned.explained(),
        f"{path}/checkpoints": canned.checkpoints(),
        f"{path}/logs": [{"rank": 1, "node": None, "lines": [ENDS, *map(str, range(100)), "step 1"]}],
        **{f"{path}/metrics?x={x}": canned.metrics("job-002", {"x": x}) for x in ("step", "time", "elapsed")},
        **{f"/nodes/{node}/history": [one.as_json() for one in canned.history(node)] for node in job["nodes"]},
    }
    file = tmp_path / "job.html"
    file.write_text(report_page(f"{ENDS} · UGRO", documents))
    context = chromium.new_context(offline=True)
    watch(context, faults)
    page = context.new_page()
    page.goto(file.as_uri())
    expect(page.locator("h1")).to_contain_text(MARKUP)
    expect(page.get_by_test_id("log-ends")).to_contain_text(ENDS)
    page.wait_for_function("document.querySelector('.log-end').scrollTop > 0")  # it opens at its end
    expect(page.get_by_test_id("charts").locator("figure")).to_have_count(3)
    expect(page.get_by_test_id("charts").locator("canvas").first).to_be_visible()
    expect(page.get_by_test_id("explain")).to_contain_text("Use a smaller batch.")
    page.get_by_label("x axis").select_option("time")
    expect(page.get_by_test_id("charts").locator("figure").first).to_contain_text("NaN at")
    assert page.evaluate("window.broken") is None and page.title() == f"{ENDS} · UGRO"
    assert page.locator("[data-testid^='do-'], [data-testid='approve']").count() == 0
    assert serious(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_function("document.documentElement.scrollWidth <= 360")
    context.close()
