"""Training curves of unchanged scripts on the sandbox: what they print, and a resume."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ugro.testing.commands import Ugro, document, until

CLUSTER = ("gpu1", "gpu2")

TRAIN = '''\
"""Prints its losses, fails at step 20, and is there to be resumed from step 11."""
import os, pathlib, sys, time
steps, mark = int(sys.argv[1]), pathlib.Path(sys.argv[2])
first = not mark.exists()
for step in range(1 if first else 11, steps + 1):
    if os.environ["RANK"] == "0":
        print(f"step {step}/{steps} loss {9 / step:.4f} lr 1e-04", flush=True)
    time.sleep(0.02)
    if step == 20 and first:
        if os.environ["RANK"] == "0":
            mark.touch()
            raise RuntimeError("on purpose")
        time.sleep(60)
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text(TRAIN)
    return folder


def points(ugro: Ugro, job: str, *options: str) -> dict[str, list[list[float]]]:
    return {one["name"]: one["points"] for one in document(ugro("metrics", job, "--json", *options))["series"]}


def printed(ugro: Ugro, job: str) -> list[list[float]]:
    """Step and loss of each line of the last attempt."""
    lines = (line["text"] for line in document(ugro("logs", job, "--json")))
    return [[float(text.split("/")[0][5:]), float(text.split()[3])] for text in lines if text.startswith("step ")]


@pytest.mark.long
def test_a_curve_has_what_was_printed_and_a_resume_is_a_segment(ugro: Ugro, project: Path) -> None:
    mark = project / "failed-once"
    job = document(ugro("launch", "train.py", "--nodes", "gpu1,gpu2", "--json", "--", "40", str(mark)))["id"]
    assert ugro("wait", job).returncode == 1
    expected = printed(ugro, job)
    assert len(expected) == 20 and points(ugro, job)["loss"] == expected
    assert points(ugro, job)["lr"] == [[x, 1e-4] for x, _ in expected]
    progress = document(ugro("metrics", job, "--json"))["progress"]
    assert (progress["step"], progress["steps"], progress["percent"]) == (20, 40, 50.0)
    rows = list(csv.DictReader(io.StringIO(ugro("metrics", job, "loss", "--csv").stdout)))
    assert [[float(row["step"]), float(row["value"])] for row in rows] == expected
    text = ugro("metrics", job).stdout
    assert "loss by step" in text and "step 20 of 40 (50%)" in text and "┤" in text
    times = [x for x, _ in points(ugro, job, "--x", "time")["loss"]]
    assert times == sorted(times) and len(times) == 20

    document(ugro("resume", job, "--from", "0", "--yes", "--json"))
    assert ugro("wait", job).returncode == 0
    again = printed(ugro, job)
    assert again[0][0] == 11 and len(again) == 30
    [loss] = document(ugro("metrics", job, "loss", "--json"))["series"]
    assert loss["points"] == [*expected[:10], *again] and loss["overwritten"] == expected[10:]
    assert [(one["attempt"], one["count"], one["overwritten"]) for one in loss["segments"]] == [(1, 20, 10), (2, 30, 0)]
    assert points(ugro, job, "--attempt", "1")["loss"] == expected


@pytest.mark.long
def test_a_running_job_shows_its_progress(ugro: Ugro, project: Path) -> None:
    (project / "long.py").write_text(
        "import os, time\n"
        "for step in range(1, 100000):\n"
        "    if os.environ['RANK'] == '0': print(f'step {step}/100000 loss {1 / step:.6f}', flush=True)\n"
        "    time.sleep(0.05)\n"
    )
    job = document(ugro("launch", "long.py", "--nodes", "gpu1", "--json"))["id"]
    until(lambda: len(points(ugro, job).get("loss", [])) > 5)

    def progress() -> dict[str, float]:
        found: dict[str, float] = document(ugro("status", job, "--json"))["progress"] or {}
        return found

    until(lambda: ugro("sweep") and progress().get("eta"))
    found = progress()
    assert found["steps"] == 100000 and found["step"] > 5 and 5 < found["rate"] < 40
    assert "progress" in ugro("status", job).stdout
    ugro("cancel", job, "--yes")


BOARD = '''\
"""Writes TensorBoard events, prints nothing of them, and ends."""
import os, sys, time
from tensorboardX import SummaryWriter
if os.environ["RANK"] == "0":
    writer = SummaryWriter("runs/first")
    for step in range(1, 61):
        writer.add_scalar("train/loss", 8 / step, step)
        if step == 30:
            writer.flush()
            time.sleep(float(sys.argv[1]))
    writer.close()
'''


@pytest.mark.long
def test_the_events_of_tensorboard_are_a_curve(ugro: Ugro, project: Path) -> None:
    (project / "board.py").write_text(BOARD)
    job = document(ugro("launch", "board.py", "--nodes", "gpu2", "--json", "--", "3"))["id"]
    assert ugro("wait", job).returncode == 0
    [loss] = document(ugro("metrics", job, "--json"))["series"]
    assert (loss["name"], loss["source"], loss["bad"]) == ("loss", "event_file", [])
    assert [x for x, _ in loss["points"]] == list(range(1, 61))
    assert all(abs(y - 8 / x) < 1e-6 for x, y in loss["points"])
