"""The dashboard of a real `ugro serve` on the sandbox: log in, watch, search, cancel, approve, and lose the server."""

from __future__ import annotations

import os
import re
import signal
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from browser.canned import MARKUP
from browser.pages import serious
from playwright.sync_api import BrowserContext, Page, expect

from ugro.sandbox.cluster import Sandbox
from ugro.testing.cluster import fork_nvidia_smi, write_forking_python
from ugro.testing.commands import Ask, Ugro, document
from ugro.testing.testbed.machine import Begun, ForkedProcess

SLOW = 120_000
"""Milliseconds for what takes several ticks, on a machine that does other things."""

TRAINS = """\
import argparse, os, time, zipfile
parser = argparse.ArgumentParser()
parser.add_argument("--resume-from")
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--fail", action="store_true")
args = parser.parse_args()
print({markup!r}, flush=True)
start = 20 if args.resume_from else 0
for step in range(start + 1, 10_000):
    if not os.path.exists("quick"):
        time.sleep(0.1)
    print(f"step {{step}}/10000 loss {{4 / (1 + step / 20):.4f}}", flush=True)
    if step == 20 and os.environ["RANK"] == "0" and not args.resume_from:
        os.makedirs("out", exist_ok=True)
        with zipfile.ZipFile("out/checkpoint-20.pt", "w") as file:
            file.writestr("archive/data.pkl", "x" * 1000)
    if args.fail and step == 25:
        if args.batch_size > 8:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        break
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text(TRAINS.format(markup=MARKUP))
    return folder


class Served:
    """`ugro serve` that can be killed and started again at the same place."""

    def __init__(self, begin: Begun) -> None:
        self._begin = begin
        self.place = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = self._begin("serve", "--every", "1", "--listen", self.place)
        assert self._process.stdout
        for line in self._process.stdout:
            if found := re.search(r"API: http://([\d.]+:\d+)/", line):
                self.place = found[1]
                return
        raise AssertionError("it does not listen")

    def kill(self) -> None:
        """End it as a lack of memory would."""
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    python = write_forking_python(tmp_path_factory.mktemp("python") / "without-torch")
    cluster = Sandbox(tmp_path_factory.mktemp("sandbox"))
    cluster.up()
    fork_nvidia_smi(cluster, python)
    inventory = yaml.safe_load(cluster.inventory.read_text())
    inventory["defaults"]["python"] = str(python)
    del inventory["nodes"]["gpu-master"]  # two are enough, and each tick looks at all
    cluster.inventory.write_text(yaml.safe_dump(inventory))
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def served(forks: Ask, sandbox: Sandbox, project: Path) -> Iterator[Served]:
    env = os.environ | sandbox.environment()
    running = Served(lambda *words: ForkedProcess(forks, words, cwd=str(project), env=env))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def ugro(forked: Ugro, sandbox: Sandbox, project: Path) -> Ugro:
    return partial(forked, cwd=project, env=os.environ | sandbox.environment())


@pytest.fixture
def page(context: BrowserContext, served: Served, ugro: Ugro) -> Page:
    """The cluster page, after a login by the link of `ugro dashboard`."""
    link = ugro("dashboard", "--no-browser").stdout.strip()
    assert link.startswith(f"http://{served.place}/#t=")
    page = context.new_page()
    page.goto(link)
    expect(page.get_by_test_id("sum")).to_be_visible(timeout=SLOW)
    assert page.url == f"http://{served.place}/"
    return page


def launched(ugro: Ugro, *words: str) -> str:
    """The id of a new job."""
    return str(document(ugro("launch", "train.py", "--json", *words))["id"])


@pytest.mark.timeout(600)
@pytest.mark.long
def test_a_run_is_watched_searched_and_cancelled(page: Page, ugro: Ugro, served: Served) -> None:
    job = launched(ugro, "--nodes", "2", "--name", "vit-large")
    page.keyboard.press("g")
    page.keyboard.press("j")
    column = page.get_by_test_id("column-running")
    expect(column).to_contain_text(job, timeout=SLOW)
    page.get_by_test_id(f"tile-{job}").click()
    expect(page.locator("h1")).to_contain_text("running")
    curve = page.get_by_test_id("main-curve").locator("figure")
    expect(curve).to_contain_text("loss", timeout=SLOW)
    legend = curve.locator(".legend .mono")
    before = legend.inner_text()
    expect(legend).not_to_have_text(before, timeout=SLOW)  # it grows
    expect(page.get_by_test_id("progress")).to_contain_text("of 10,000", timeout=SLOW)

    page.get_by_test_id("tab-log").click()
    expect(page.get_by_test_id("log-size")).to_contain_text("lines")
    page.get_by_test_id("log-search").fill("img src")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("hits")).to_have_text("1 hit", timeout=SLOW)
    page.get_by_test_id("hit-list").get_by_role("button").click()
    expect(page.locator(".row.marked")).to_contain_text(MARKUP)
    assert page.evaluate("window.broken") is None

    page.get_by_test_id("do-cancel").click()
    expect(page.get_by_test_id("dialog")).to_contain_text(f"ugro cancel {job}")
    page.get_by_test_id("dialog-yes").click()
    expect(page.locator("h1")).to_contain_text("cancelled", timeout=SLOW)
    events = document(ugro("events", job, "--json"))
    assert any(event["kind"] == "asked" and "cancel, by a browser" in event["message"] for event in events)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_failed_run_is_explained_and_its_resume_approved(
    page: Page, ugro: Ugro, served: Served, faults: list[str], tmp_path: Path
) -> None:
    job = launched(ugro, "--nodes", "2", "--name", "fails-once", "--outputs", "out", "--", "--fail")
    page.goto(f"http://{served.place}/#/jobs/{job}")
    expect(page.locator("h1")).to_contain_text("failed", timeout=SLOW)
    expect(page.get_by_test_id("explain")).to_contain_text("CUDA out of memory", timeout=SLOW)
    page.get_by_test_id("approve").click(timeout=SLOW)
    dialog = page.get_by_test_id("dialog")
    expect(dialog).to_contain_text("--batch-size", timeout=SLOW)
    expect(dialog).to_contain_text("step 20")
    assert serious(page) == []
    page.get_by_test_id("dialog-yes").click()
    expect(page.locator("h1")).to_contain_text("succeeded", timeout=SLOW)
    assert document(ugro("status", job, "--json"))["attempt"] == 2
    page.get_by_test_id("tab-checkpoints").click()
    expect(page.get_by_test_id("checkpoints")).to_contain_text("step 20", timeout=SLOW)
    page.get_by_test_id("tab-files").click()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download out/checkpoint-20.pt").click(timeout=SLOW)
    assert saved.value.suggested_filename == "checkpoint-20.pt" and zipfile.is_zipfile(saved.value.path())
    page.get_by_test_id("files").get_by_role("link", name="out/").first.click()
    expect(page.get_by_test_id("files")).to_contain_text("checkpoint-20.pt", timeout=SLOW)
    assert page.evaluate("window.broken") is None
    faults[:] = [fault for fault in faults if "409" not in fault]  # the question before the act

    file = tmp_path / "job.html"
    assert ugro("report", job, "--output", str(file)).returncode == 0
    page.goto(file.as_uri())
    expect(page.locator("h1")).to_contain_text("fails-once")
    expect(page.get_by_test_id("log-ends")).to_contain_text("step 25/10000")
    expect(page.get_by_test_id("log-ends")).to_contain_text(MARKUP)


@pytest.mark.timeout(600)
def test_a_tab_heals_within_15_s_after_the_server_was_killed(page: Page, served: Served, faults: list[str]) -> None:
    page.goto(f"http://{served.place}/#/cluster")
    page.evaluate("window.same = 1")
    served.kill()
    expect(page.get_by_test_id("band")).to_contain_text("no contact for", timeout=SLOW)
    expect(page.get_by_test_id("node-gpu1")).to_be_visible()
    served.start()
    expect(page.get_by_test_id("band")).to_have_count(0, timeout=15_000)
    expect(page.get_by_test_id("contact")).to_contain_text("live")
    assert page.evaluate("window.same") == 1  # nothing was loaded again
    page.goto(f"http://{served.place}/#/history?since=3d")
    expect(page.get_by_test_id("history-gpu1").locator("canvas")).to_be_visible(timeout=SLOW)
    expect(page.get_by_test_id("history-gpu1")).to_contain_text("idle in a job")
    faults.clear()  # the browser notes each attempt that fails


def test_a_link_is_good_once_and_one_to_look_changes_nothing(
    context: BrowserContext, served: Served, ugro: Ugro, faults: list[str]
) -> None:
    link = ugro("dashboard", "--no-browser", "--view").stdout.strip()
    page = context.new_page()
    page.goto(link)
    expect(page.get_by_test_id("contact")).to_contain_text("view only", timeout=SLOW)
    expect(page.get_by_role("button", name="Drain…").first).to_be_disabled()
    context.clear_cookies()
    page = context.new_page()
    page.goto(link)
    expect(page.locator("main")).to_contain_text("the link was used", timeout=SLOW)
    faults.clear()  # the browser notes the refusal
