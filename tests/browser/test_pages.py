"""Tests of the pages before canned answers: every state, hostile texts, any width and theme, and no contact."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import canned as canned_answers
from browser.canned import LINES, MARKUP, Canned
from browser.pages import Open, open_canned, serious
from playwright.sync_api import BrowserContext, Page, expect

EVERY = (
    "#/cluster",
    "#/jobs",
    "#/history",
    *(f"#/jobs/job-002/{tab}" for tab in ("overview", "curves", "log", "timeline", "checkpoints", "spec")),
    "#/jobs/job-005",
    "#/jobs/job-007",
)


def settled(page: Page) -> None:
    """Wait until a page has drawn what it asked for."""
    expect(page.locator("h1")).to_be_visible()
    page.wait_for_load_state("networkidle")


@pytest.mark.parametrize("address", EVERY)
def test_markup_stays_text_axe_is_content_and_a_phone_needs_no_sideways_scroll(opened: Open, address: str) -> None:
    page = opened(address)
    settled(page)
    assert page.evaluate("window.broken") is None
    assert page.locator("#app img, #app script").count() == 0
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert serious(page) == [], scheme
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_function("document.documentElement.scrollWidth <= 360")
    assert serious(page) == []


def test_markup_of_names_and_logs_is_seen(opened: Open, canned: Canned) -> None:
    page = opened("#/jobs/job-002/log?line=1000")
    expect(page.locator("h1")).to_contain_text(MARKUP)
    expect(page.locator(".row.marked")).to_contain_text(f"{MARKUP} 1000")
    page = opened("#/jobs/job-002/curves")
    expect(page.get_by_test_id("charts")).to_contain_text(MARKUP)


def test_the_board_has_every_state_in_its_column_and_in_order(opened: Open, canned: Canned) -> None:
    page = opened("#/jobs")

    def tiles(column: str) -> list[str]:
        return [
            re.split(r"\s", text)[0] for text in page.get_by_test_id(f"column-{column}").locator("a").all_inner_texts()
        ]

    expect(page.get_by_test_id("tile-job-010")).to_be_visible()
    assert tiles("queued") == ["job-008", "job-007", "job-009"]  # by turn, and held ones after
    assert tiles("starting") == ["job-006"]
    assert tiles("running") == ["job-004", "job-005", "job-010"]
    assert set(tiles("ended")) == {"job-001", "job-002", "job-003"}
    expect(page.get_by_test_id("tile-job-005")).to_contain_text("step 420 of 1,000")
    expect(page.get_by_test_id("tile-job-005")).to_contain_text(re.compile(r"(min|s) left"))
    expect(page.get_by_test_id("tile-job-008")).to_contain_text("turn 1")
    canned.change(queue=["job-007", "job-008"])
    expect(page.get_by_test_id("tile-job-007")).to_contain_text("turn 1")
    assert tiles("queued") == ["job-007", "job-008", "job-009"]


def test_filters_are_in_the_address(opened: Open) -> None:
    page = opened("#/jobs?state=queued&text=soon")
    expect(page.locator(".tile")).to_have_count(1)
    page.get_by_label("Filter by name").fill("later")
    expect(page.get_by_test_id("tile-job-007")).to_be_visible()
    assert "text=later" in page.url and "state=queued" in page.url


def test_shows_unknown_use_as_a_dash_and_keeps_an_unreachable_node(opened: Open) -> None:
    page = opened("#/cluster")
    expect(page.get_by_test_id("gpu-gpu1:0")).to_contain_text("— %")
    away = page.get_by_test_id("node-gpu2")
    expect(away).to_contain_text(re.compile(r"last seen \d+ min ago"))
    expect(away).to_contain_text("Drained")
    expect(page.get_by_test_id("map")).to_contain_text("2.2 Gbit/s")
    expect(page.get_by_test_id("attention")).to_contain_text("Needs attention (3)")


def test_a_number_names_its_command_and_a_click_copies_it(opened: Open) -> None:
    page = opened("#/jobs/job-005")
    assert page.get_by_test_id("progress").locator("..").get_attribute("title") == "$ ugro metrics job-005"
    page.get_by_role("button", name="ugro events job-005").first.click()
    expect(page.locator(".toast")).to_contain_text("ugro events job-005")


def test_keys_go_choose_open_and_help(opened: Open) -> None:
    page = opened("#/cluster")
    expect(page.get_by_test_id("sum")).to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("j")
    expect(page.get_by_test_id("tile-job-008")).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("job-007")
    page.keyboard.press("?")
    expect(page.get_by_test_id("help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("help")).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("h")
    expect(page.locator("h1")).to_have_text("History")


def test_cancel_asks_and_names_what_ends(opened: Open, canned: Canned) -> None:
    page = opened("#/jobs/job-005")
    page.get_by_test_id("do-cancel").click()
    dialog = page.get_by_test_id("dialog")
    expect(dialog).to_contain_text("2 ranks on gpu-master, gpu1")
    expect(dialog).to_contain_text("ugro cancel job-005")
    page.get_by_test_id("dialog-no").click()
    assert canned.posted == []
    page.get_by_test_id("do-cancel").click()
    page.get_by_test_id("dialog-yes").click()
    expect(page.locator(".toast")).to_contain_text("cancel requested")
    ((path, body),) = canned.posted
    assert path == "/jobs/job-005/cancel" and body["attempt"] == 1


QUESTION = {"id": "approve", "text": "Resume it so?", "facts": ["50 steps are lost"], "refusal": "", "hint": ""}
PLAN = {
    "effects": {"changes": [{"name": "--batch-size", "before": "16", "after": "8"}], "begins": MARKUP},
    "questions": [QUESTION | {"default": False, "optional": False}],
    "fingerprint": {"parts": {"the attempt of job-002": "abc"}},
}


def test_approve_shows_what_will_change_and_a_stale_plan_is_refused(
    opened: Open, canned: Canned, faults: list[str]
) -> None:
    def approve(body: dict[str, Any]) -> tuple[int, Any]:
        if "answers" not in body:
            return 409, {"error": {"code": "consent_needed", "message": "asks", "hint": ""}, "plan": PLAN}
        return 409, {"error": {"code": "plan_changed", "message": "changed: the attempt", "hint": "look again"}}

    canned.actions["/jobs/job-002/approve"] = approve
    page = opened("#/jobs/job-002")
    page.get_by_test_id("approve").click()
    dialog = page.get_by_test_id("dialog")
    expect(dialog).to_contain_text("Approve what is proposed for job-002?")
    expect(dialog).to_contain_text("--batch-size 16 → 8")
    expect(dialog).to_contain_text("50 steps are lost")
    page.get_by_test_id("dialog-yes").click()
    expect(dialog).to_contain_text("changed: the attempt")
    expect(page.get_by_test_id("dialog-yes")).to_have_count(0)
    assert canned.posted[1][1]["answers"] == {"approve": True}
    assert canned.posted[1][1]["fingerprint"] == PLAN["fingerprint"]
    assert len(faults) == 2 and all("409" in fault for fault in faults)  # the browser notes each refusal
    faults.clear()


def test_a_question_ends_when_its_page_is_left(opened: Open, canned: Canned) -> None:
    page = opened("#/jobs")
    page.goto(page.url.split("#")[0] + "#/jobs/job-005")
    page.get_by_test_id("do-cancel").click()
    expect(page.get_by_test_id("dialog")).to_be_visible()
    page.go_back()
    expect(page.get_by_test_id("dialog")).to_have_count(0)
    expect(page).to_have_title("Jobs · UGRO")
    assert canned.posted == []


def test_a_plan_that_changed_meanwhile_is_asked_about_again(opened: Open, canned: Canned, faults: list[str]) -> None:
    other = {"parts": {"the attempt of job-002": "def"}}
    changed = PLAN | {"effects": {"begins": "from step 900"}, "fingerprint": other}

    def approve(body: dict[str, Any]) -> tuple[int, Any]:
        if "answers" not in body:
            return 409, {"error": {"code": "consent_needed", "message": "asks", "hint": ""}, "plan": PLAN}
        if body["fingerprint"] == PLAN["fingerprint"]:
            return 409, {"error": {"code": "plan_changed", "message": "changed: the attempt"}, "plan": changed}
        return 200, {"id": "job-002"}

    canned.actions["/jobs/job-002/approve"] = approve
    page = opened("#/jobs/job-002")
    page.get_by_test_id("approve").click()
    dialog = page.get_by_test_id("dialog")
    expect(dialog.get_by_role("alert")).to_have_count(0)
    page.get_by_test_id("dialog-yes").click()
    expect(dialog.get_by_role("alert")).to_contain_text("changed: the attempt")
    expect(dialog).to_contain_text("from step 900")
    page.get_by_test_id("dialog-yes").click()
    expect(page.locator(".toast")).to_contain_text("job-002: approved")
    faults.clear()  # the browser notes each 409


def test_a_job_is_launched_again_with_other_arguments(opened: Open, canned: Canned, faults: list[str]) -> None:
    def launch(body: dict[str, Any]) -> tuple[int, Any]:
        if "fingerprint" not in body:
            return 409, {"error": {"code": "consent_needed", "message": "asks"}, "plan": PLAN | {"questions": []}}
        return 200, {"id": "job-008"}

    canned.actions["/jobs"] = launch
    page = opened("#/jobs/job-001")
    page.get_by_test_id("do-again").click()
    page.get_by_label("Arguments").fill("--lr 1e-4")
    page.get_by_test_id("dialog-yes").click()
    expect(page.get_by_test_id("dialog")).to_contain_text("--batch-size 16 → 8")
    page.get_by_test_id("dialog-yes").click()
    expect(page.locator("h1")).to_contain_text("job-008")
    assert canned.posted[0][1] == {"like": "job-001", "name": "train", "arguments": "--lr 1e-4"}
    assert canned.posted[1][1] == canned.posted[0][1] | {"answers": {}, "fingerprint": PLAN["fingerprint"]}
    faults.clear()  # the browser notes the 409


def test_deny_and_drain_ask_first(opened: Open, canned: Canned) -> None:
    page = opened("#/cluster")
    page.get_by_test_id("deny").click()
    expect(page.get_by_test_id("dialog")).to_contain_text("ugro deny job-002")
    page.get_by_test_id("dialog-yes").click()
    expect(page.locator(".toast")).to_contain_text("denied")
    page.get_by_test_id("node-gpu1").get_by_role("button", name="Drain…").click()
    page.get_by_test_id("dialog-yes").click()
    expect(page.get_by_test_id("dialog")).to_be_visible()  # a reason is needed
    page.get_by_label("Reason").fill("new fan")
    page.get_by_test_id("dialog-yes").click()
    expect(page.locator(".toast")).to_contain_text("gpu1: drained")
    assert canned.posted == [("/jobs/job-002/deny", {"attempt": 1}), ("/nodes/gpu1/drain", {"reason": "new fan"})]


def test_lost_contact_is_shown_turns_buttons_off_and_heals(opened: Open, canned: Canned, faults: list[str]) -> None:
    page = opened("#/jobs/job-005/log")
    expect(page.get_by_test_id("do-cancel")).to_be_enabled()
    with page.expect_response(lambda answer: "/logs" in answer.url and not answer.ok):
        canned.drop()
    expect(page.get_by_test_id("band")).to_contain_text("no contact for")
    expect(page.get_by_role("alert")).to_have_count(0)  # the band has said it
    expect(page.get_by_test_id("do-cancel")).to_be_disabled()
    expect(page.locator("h1")).to_contain_text("job-005")
    canned.up, canned.epoch = True, "second"
    expect(page.get_by_test_id("band")).to_have_count(0, timeout=20_000)
    expect(page.get_by_test_id("do-cancel")).to_be_enabled()
    faults.clear()  # the browser notes each attempt that fails


def test_a_million_lines_jump_search_and_copy(opened: Open) -> None:
    page = opened("#/jobs/job-005/log")
    frame = page.get_by_test_id("log-frame")
    expect(page.get_by_test_id("log-size")).to_contain_text("1,000,000 lines")
    expect(page.locator(f"[data-row='{LINES}']")).to_contain_text(MARKUP)
    frame.focus()
    page.keyboard.press("Home")
    expect(page.locator("[data-row='1']")).to_have_text("step 1 loss 0.5\n")
    page.keyboard.press("PageDown")
    expect(page.locator("[data-row='60']")).to_have_text("step 60 loss 0.5\n")
    page.get_by_label("Go to line").fill("654321")
    page.keyboard.press("Enter")
    expect(page.locator(".row.marked")).to_have_text("step 654321 loss 0.5\n")
    assert page.locator(".row").count() < 400
    page.evaluate(
        """() => { const at = (n) => document.querySelector(`[data-row="${n}"]`).firstChild;
                   getSelection().setBaseAndExtent(at(654321), 0, at(654323), 6); }"""
    )
    for _ in range(8):
        frame.focus()
        page.keyboard.press("PageUp")
    expect(page.locator("[data-row='654100']")).to_be_attached()
    copied = page.evaluate("getSelection().toString()")
    assert copied == "step 654321 loss 0.5\nstep 654322 loss 0.5\nstep 6"
    page.get_by_test_id("log-search").fill("step 777")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("hits")).to_contain_text("hits")
    page.get_by_test_id("hit-list").get_by_role("button").nth(3).click()
    expect(page.locator(".row.marked")).to_have_text("step 3777 loss 0.5\n")
    expect(page.locator(".row.marked mark")).to_have_count(0)  # the text is `step 777`, and this line has `step 3777`


def test_the_end_of_a_log_is_followed(opened: Open, canned: Canned) -> None:
    canned.lines = 50
    page = opened("#/jobs/job-005/log")
    expect(page.locator("[data-row='50']")).to_be_visible()
    raw = "/api/v1/jobs/job-005/logs/raw?rank=0"
    expect(page.get_by_test_id("log-download")).to_have_attribute("href", raw)
    canned.lines = 5000
    expect(page.locator("[data-row='5000']")).to_be_visible()
    page.get_by_test_id("log-frame").focus()
    page.keyboard.press("Home")
    canned.lines = 6000
    expect(page.get_by_test_id("log-size")).to_contain_text("6,000 lines")
    expect(page.locator("[data-row='1']")).to_be_visible()


def test_curves_mark_what_is_no_number_and_zoom_together(opened: Open) -> None:
    page = opened("#/jobs/job-005/curves?smooth=0.9&over=job-001")
    charts = page.get_by_test_id("charts").locator("figure")
    expect(charts).to_have_count(3)
    expect(charts.first).to_contain_text("NaN at step 200 and 9 more")
    expect(page.get_by_test_id("gpu-charts").locator("figure").first).to_be_visible()
    over = charts.first.locator(".u-over")
    box = over.bounding_box()
    assert box
    page.mouse.move(box["x"] + 50, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 40)
    page.mouse.up()
    expect(page.get_by_role("button", name="reset zoom")).to_be_visible()
    assert "from=" in page.url and "to=" in page.url
    page.get_by_role("button", name="reset zoom").click()
    assert "from=" not in page.url
    page.get_by_role("button", name="no outliers").click()
    expect(page.get_by_role("button", name="no outliers")).to_have_attribute("aria-pressed", "true")
    assert "clip=1" in page.url
    for kind, begins in (("csv", b"series,step,value\n"), ("png", b"\x89PNG")):
        with page.expect_download() as saved:
            charts.first.get_by_role("button", name=kind).click()
        assert Path(saved.value.path()).read_bytes().startswith(begins)


def test_a_job_too_short_for_curves_of_its_gpus_has_a_sentence_and_no_empty_charts(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = canned_answers.history
    monkeypatch.setattr(
        canned_answers,
        "history",
        lambda node: [replace(gpu, samples=gpu.samples[-1:]) for gpu in whole(node)],
    )
    page = opened("#/jobs/job-005/curves")
    expect(page.locator("p.empty")).to_contain_text("too few observations so far")
    expect(page.get_by_test_id("gpu-charts")).to_have_count(0)


def test_one_card_that_fails_leaves_the_others(context: BrowserContext, canned: Canned, faults: list[str]) -> None:
    broken = canned.view.as_json()
    page = open_canned(context, canned, "#/cluster")
    expect(page.get_by_test_id("node-gpu1")).to_be_visible()
    canned.change(nodes={"gpu1": broken["nodes"]["gpu1"] | {"gpus": [None]}})
    expect(page.get_by_test_id("node-gpu-master")).to_be_visible()
    expect(page.get_by_role("alert").first).to_be_visible()
    faults.clear()


def test_without_a_login_the_page_says_how(opened: Open, canned: Canned, faults: list[str]) -> None:
    canned.answer = lambda *_: (401, {"error": {"code": "unauthorized", "message": "log in", "hint": ""}})  # type: ignore[method-assign]
    page = opened("#/jobs")
    expect(page.locator("main")).to_contain_text("ugro dashboard")
    assert serious(page) == []
    faults.clear()


def test_the_one_time_code_leaves_the_address_at_once(opened: Open, canned: Canned) -> None:
    page = opened("#t=abc123")
    expect(page.get_by_test_id("sum")).to_be_visible()
    assert canned.posted == [("/login", {"code": "abc123"})]
    assert "abc123" not in page.url
    page.go_back()
    assert "abc123" not in page.url
