"""Tests of the pages about results before canned answers: a sweep on the board and on its page, and a job's files."""

from __future__ import annotations

import pytest
from browser.canned import Canned, job
from browser.canned_names import LONG, MARKUP
from browser.canned_results import SWEEP, with_sweep
from browser.pages import Open, serious
from playwright.sync_api import Page, expect

from ugro.common.models.job_state import JobState

MARKED = "gpj.�exe��[31m"
"""How a name is shown that turns text around, breaks the line and colours a terminal."""


@pytest.fixture
def swept(canned: Canned) -> Canned:
    canned.view = with_sweep(canned.view, job(5, JobState.RUNNING))
    return canned


def is_fit_for_all(page: Page) -> None:
    """Check that names are text, axe-core is content in both themes, and a phone needs no sideways scroll."""
    assert page.evaluate("window.broken") is None and page.locator("#app img, #app script").count() == 0
    page.wait_for_load_state("networkidle")
    for width, scheme in ((1280, "dark"), (360, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")
        assert serious(page) == [], scheme


@pytest.mark.long
def test_a_sweep_is_a_row_of_the_board_that_counts_and_unfolds(opened: Open, swept: Canned) -> None:
    page = opened("#/jobs")
    row = page.get_by_test_id(SWEEP)
    expect(row).to_contain_text("9 jobs, 3 at a time")
    for words in ("2 running", "1 starting", "2 queued", "2 succeeded", "1 failed", "1 cancelled"):
        expect(row.locator(".badge", has_text=words)).to_be_visible()
    expect(row.get_by_role("img", name="4 of 9 jobs ended")).to_be_attached()
    expect(page.get_by_test_id("tile-job-025")).to_have_count(0)  # it is in the row of its sweep, not beside it
    expect(page.get_by_test_id("column-running").locator("h2")).to_have_text("Running 3, and 2 in sweeps")
    page.keyboard.press("j")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    table = page.get_by_test_id(f"jobs-{SWEEP}")
    expect(table.locator("tbody tr")).to_have_count(9)
    expect(row.get_by_role("button", name=f"Jobs of {SWEEP}")).to_have_attribute("aria-expanded", "true")
    assert f"open={SWEEP}" in page.url
    states = swept.view.sweeps[SWEEP].as_json()
    states["states"] |= {"running": 1, "succeeded": 3}
    ended = swept.view.jobs["job-025"].as_json() | {"state": "succeeded"}
    swept.change(sweeps={SWEEP: states}, jobs={"job-025": ended})
    expect(row.locator(".badge", has_text="3 succeeded")).to_be_visible()
    expect(page.get_by_test_id("row-job-025")).to_contain_text("succeeded")
    is_fit_for_all(page)
    page.get_by_label("State", exact=True).select_option("failed")
    expect(table.locator("tbody tr")).to_have_count(1)
    expect(table).to_contain_text(f"rank 0 on gpu1: {MARKUP}")
    page.get_by_label("Filter by name").fill("sooner")
    expect(row).to_have_count(0)


@pytest.mark.long
def test_a_sweep_is_compared_and_drawn_on_its_page(opened: Open, swept: Canned) -> None:
    page = opened(f"#/sweeps/{SWEEP}")
    expect(page.get_by_test_id("sweep-best")).to_contain_text("lowest eval_loss: 1.5 of job-024 lr=1e-04")
    chart = page.get_by_test_id("sweep-curves").locator("figure")
    expect(chart.locator(".legend > span")).to_have_count(6)  # one curve for each job that has the series
    expect(chart.locator(".legend .bold")).to_contain_text("lr=1e-04")
    expect(page.get_by_role("link", name="Jobs", exact=True)).to_have_attribute("aria-current", "page")
    rows = page.get_by_test_id("sweep-jobs").locator("tbody tr")
    expect(page.get_by_test_id("row-job-024")).to_contain_text("best 1.5")
    expect(page.get_by_test_id("row-job-021")).to_contain_text("2.4")
    expect(page.get_by_test_id("row-job-021")).to_contain_text("2.5")  # its last value
    expect(page.get_by_test_id("row-job-022")).to_contain_text(MARKED)
    expect(page.get_by_test_id("row-job-021")).to_contain_text(MARKUP)
    expect(page.get_by_role("button", name="x �<b>")).to_be_visible()
    page.get_by_role("button", name="best eval_loss").click()
    expect(rows.first).to_contain_text("job-024")
    expect(page.get_by_role("columnheader", name="best eval_loss")).to_have_attribute("aria-sort", "ascending")
    expect(rows.last).to_contain_text("job-029")  # what has no value is last
    is_fit_for_all(page)
    page.get_by_label("Series by which").select_option(MARKUP)
    expect(chart).to_contain_text(MARKUP)
    expect(page.locator("h1 + .command")).to_have_text(f"ugro status {SWEEP} --metric '{MARKUP}'")
    page.get_by_label("Series by which").select_option(index=3)
    expect(page.get_by_test_id("sweep-best")).to_contain_text(f"lowest acc{MARKED}")
    expect(page.locator("h1 + .command")).to_have_text(f"ugro status {SWEEP}")  # no such name is pasted
    page.get_by_role("button", name="lowest is best").click()
    expect(page.get_by_test_id("row-job-021")).to_contain_text("best 2.4")
    assert "highest=true" in page.url and page.evaluate("window.broken") is None
    page.get_by_test_id("row-job-026").get_by_role("link").click()
    page.get_by_role("link", name=SWEEP).click()
    expect(page.locator("h1")).to_contain_text("rates")


@pytest.mark.long
def test_files_of_a_job_are_listed_opened_and_downloaded(opened: Open) -> None:
    page = opened("#/jobs/job-001")
    page.get_by_test_id("tab-files").click()
    expect(page.get_by_test_id("outputs-state")).to_have_text("306 files, 4.0 GB, on the master")
    card = page.get_by_test_id("outputs")
    expect(card).to_contain_text("ls /home/ob/.ugro/jobs/job-001/outputs")
    links = page.get_by_test_id("outputs-list").get_by_role("link")
    found = [str(link.get_attribute("href")) for link in links.all()]
    assert found[0] == "/api/v1/jobs/job-001/files/out/a%20b.bin" and "%E2%80%AE" in found[2]
    assert all("<" not in one and one.startswith("/api/v1/jobs/job-001/files/out/") for one in found)
    expect(card).to_contain_text("50 of 306 names")

    node = page.get_by_test_id("files-gpu1")
    expect(node).to_contain_text("the same disk: gpu-master")
    for words in (MARKUP, MARKED, LONG, "link, not followed", "2 names that are no UTF-8", "secret may not be read"):
        expect(node).to_contain_text(words)
    expect(page.get_by_test_id("files").locator(".note")).to_contain_text("gpu2 is unreachable")
    node.get_by_role("button", name="pull model[1].pt").click()
    expect(page.locator(".toast")).to_contain_text("ugro pull job-001 'model\\[1\\].pt'")
    expect(node.get_by_role("button", name=MARKED)).to_have_count(0)  # no such name is pasted
    is_fit_for_all(page)
    card.get_by_role("button", name="Show all of them").click()
    expect(links).to_have_count(306)
    node.get_by_role("link", name="many/").click()
    expect(node).to_contain_text("50 of more than 20,000 names")
    expect(page.get_by_test_id("folders")).to_have_text("job-001/many")
    page.go_back()
    expect(node).to_contain_text(MARKUP)
    page.goto(f"{page.url.split('#')[0]}#/jobs/job-007/files")
    expect(page.locator("main")).to_contain_text("it has not started, so it has no files")
    expect(page.locator("main")).to_contain_text("it declares none")
