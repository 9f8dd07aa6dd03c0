"""Draw docs/dashboard.png: the page of a running job, from a real `ugro serve` in a sandbox of its own.

usage: python scripts/dashboard_picture.py      (or `make picture`; about a minute, needs Chromium)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from ugro.sandbox.cluster import Sandbox
from ugro.testing.cluster import write_python

TARGET = Path(__file__).parents[1] / "docs" / "dashboard.png"
SIZE = {"width": 1180, "height": 760}
PATIENCE = 180_000
"""Milliseconds for what the picture waits for."""

TRAINS = """\
import math, os, random, time
rank, steps = int(os.environ["RANK"]), 1500
random.seed(rank)
ballast = bytearray(300 << 20)
ballast[::4096] = b"x" * len(ballast[::4096])
for step in range(1, steps + 1):
    until = time.monotonic() + 0.01
    while time.monotonic() < until:
        pass
    time.sleep(0.015)
    loss = 0.6 + 2.8 * math.exp(-step / 260) + random.gauss(0, 0.05)
    lr = 3e-4 * min(1, step / 150) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
    norm = 0.8 + 2 / step + random.random() / 3
    print(f"step {step}/{steps} loss {loss:.4f} lr {lr:.3e} grad_norm {norm:.3f}", flush=True)
"""


@contextmanager
def serving(env: dict[str, str], project: Path) -> Iterator[None]:
    """Run `ugro serve`."""
    command = [sys.executable, "-m", "ugro", "serve", "--every", "1", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            next(line for line in process.stdout if "dashboard:" in line)
            yield
        finally:
            process.kill()


def draw(env: dict[str, str], project: Path) -> None:
    """Run two jobs and take the picture."""

    def ugro(*words: str) -> str:
        command = [sys.executable, "-m", "ugro", *words]
        return subprocess.run(command, cwd=project, env=env, check=True, capture_output=True, text=True).stdout

    job = json.loads(ugro("launch", "train.py", "--nodes", "2", "--name", "vit-large", "--json"))["id"]
    ugro("launch", "train.py", "--nodes", "3", "--name", "bert-large", "--json")
    link = ugro("dashboard", "--no-browser").strip()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_context(color_scheme="dark", viewport=SIZE).new_page()  # type: ignore[arg-type]
        page.goto(link)
        page.goto(f"{link.partition('#')[0]}#/jobs/{job}")
        expect(page.get_by_test_id("progress")).to_contain_text(
            re.compile(r"step ([6-9]\d\d|1,\d{3})"), timeout=PATIENCE
        )
        page.wait_for_timeout(3500)  # the chart is drawn again every three seconds
        page.screenshot(path=TARGET)
        browser.close()


def main() -> None:
    """Make the sandbox, draw, and leave nothing."""
    with tempfile.TemporaryDirectory(prefix="ugro-picture-") as folder:
        project = Path(folder) / "vit"
        project.mkdir()
        (project / "train.py").write_text(TRAINS)
        cluster = Sandbox(Path(folder) / "sandbox")
        cluster.up()
        try:
            python = write_python(Path(folder) / "python")
            cluster.inventory.write_text(re.sub(r"python: .*", f"python: {python}", cluster.inventory.read_text()))
            env = os.environ | cluster.environment() | {"PYTHONUNBUFFERED": "1"}
            with serving(env, project):
                draw(env, project)
        finally:
            cluster.down()


if __name__ == "__main__":
    main()
