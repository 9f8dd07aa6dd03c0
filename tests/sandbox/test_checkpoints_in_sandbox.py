"""Whole jobs on the sandbox, with checkpoints of torch: a job that was resumed from an earlier one than its last, and
one whose ranks each save a part of their own to the disk of their node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from code_folders import plant
from places import QUICK

from ugro.testing.commands import Ugro, document

CLUSTER = ("gpu-master", "gpu1")

pytestmark = pytest.mark.timeout(400)

SAVES = """\
import sys, torch
for step in (10, 12, 14, 20, 30):
    torch.save({"step": step, "optimizer": {}}, f"{sys.argv[1]}/{step}.pt")
torch.save({"model": torch.zeros(4)}, f"{sys.argv[1]}/best.pt")
for step in (20, 40):
    for rank in range(2):
        torch.save({"rank": rank, "step": step, "optimizer": {}}, f"{sys.argv[1]}/{step}-{rank}.pt")
"""
"""What torch saves, once for all ranks: they copy it, and know by its bytes what they are given."""

BRANCHES = """\
import os, shutil
attempt, start = int(os.environ["UGRO_ATTEMPT"]), 0
steps = {{1: (10, 20, 30), 2: (12, 14)}}
content = lambda path: open(path, "rb").read()
if path := os.environ.get("UGRO_RESUME_FROM"):
    [start] = [step for step in (*steps[1], *steps[2]) if content(path) == content(f"{saved}/{{step}}.pt")]
print("from", start, flush=True)
os.makedirs("out", exist_ok=True)
for step in steps.get(attempt, ()):
    shutil.copyfile(f"{saved}/{{step}}.pt", f"out/checkpoint-{{step}}.pt")
shutil.copyfile("{saved}/best.pt", "out/best_acc_0.9312.pt")
if attempt < 3:
    os.kill(os.getpid(), 9)
"""

PARTS = """\
import argparse, glob, os, shutil, time
parser = argparse.ArgumentParser()
parser.add_argument("--layout")
parser.add_argument("--resume-from")
args = parser.parse_args()
rank, met = int(os.environ["RANK"]), "{saved}/met-" + os.environ["UGRO_JOB"]
if os.environ["UGRO_ATTEMPT"] == "1":
    for step in (20, 40):
        path = args.layout.format(step=step, rank=rank)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if step == 20 or rank == 0:  # the last rank has not saved its part of step 40 when it fails
            shutil.copyfile(f"{saved}/{{step}}-{{rank}}.pt", path)
    open(f"{{met}}-{{rank}}", "w").close()
    while len(glob.glob(f"{{met}}-*")) < 2:
        time.sleep(0.05)
    raise SystemExit(3)
own = args.resume_from
if os.path.isdir(own):
    own = f"{{own}}/mp_rank_0{{rank}}/model_optim_rng.pt"
content = lambda path: open(path, "rb").read()
[held] = [(of, step) for step in (20, 40) for of in (0, 1) if content(own) == content(f"{saved}/{{step}}-{{of}}.pt")]
print("rank", rank, "has", *held, own == os.environ["UGRO_RESUME_FROM"], flush=True)
"""

TOLD = ("--resume-with", "--resume-from {path}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved = tmp_path_factory.mktemp("saved")
    subprocess.run([sys.executable, "-c", SAVES, str(saved)], env=os.environ | {"PYTHONPATH": str(QUICK)}, check=True)
    scripts = {"branches.py": BRANCHES.format(saved=saved), "parts.py": PARTS.format(saved=saved)}
    return plant(tmp_path_factory.mktemp("project"), scripts)


def ended(ugro: Ugro, job: str, state: str) -> None:
    ugro("wait", job)
    document_ = document(ugro("status", job, "--json"))
    assert document_["state"] == state, ugro("logs", job).stdout


def checkpoints(ugro: Ugro, job: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = document(ugro("checkpoints", job, "--json"))
    return listed


def lines(ugro: Ugro, job: str, word: str) -> list[str]:
    return sorted(line["text"] for line in document(ugro("logs", job, "--json")) if line["text"].startswith(word))


@pytest.mark.long
def test_a_job_goes_on_from_what_its_latest_attempt_came_from(ugro: Ugro) -> None:
    job = document(ugro("launch", "branches.py", "--nodes", "gpu1", "--json"))["id"]
    ended(ugro, job, "failed")
    assert document(ugro("explain", job, "--json"))["last_checkpoint"]["step"] == 30
    document(ugro("resume", job, "--from", "10", "--yes", "--json"))
    ended(ugro, job, "failed")
    assert document(ugro("explain", job, "--json"))["last_checkpoint"]["step"] == 14
    seen = {one["step"]: (one["attempt"], one["other_branch"]) for one in checkpoints(ugro, job)}
    assert seen == {
        None: (2, False), 10: (1, False), 12: (2, False), 14: (2, False), 20: (1, True), 30: (1, True),
    }  # fmt: skip
    shown = ugro("checkpoints", job).stdout
    assert shown.count("of another branch") == 2
    assert [one["checkpoint"]["step"] for one in document(ugro("proposals", "--json"))] == [14]
    ugro("checkpoints", job, "--pull")
    assert [one["step"] for one in checkpoints(ugro, job) if one["on_master"]] == [14]
    chosen = ugro("resume", job, "--from", "30")
    assert chosen.returncode == 2 and "Checkpoint: 30 (out/checkpoint-30.pt" in chosen.stderr
    assert "of another branch (attempt 1)" in chosen.stderr
    document(ugro("resume", job, "--yes", "--json"))
    ended(ugro, job, "succeeded")
    assert lines(ugro, job, "from") == ["from 14"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("layout", "name", "kind", "own"),
    [
        ("out/iter_{step:07d}/mp_rank_0{rank}/model_optim_rng.pt", "out/iter_0000020", "folder", False),
        ("ck/ep1-ba{step}-rank{rank}.pt", "ck/ep1-ba20-rank{rank}.pt", "ranks", True),
    ],
)
def test_each_rank_goes_on_from_its_own_part(ugro: Ugro, layout: str, name: str, kind: str, own: bool) -> None:
    job = document(ugro("launch", *TOLD, "parts.py", "--nodes", "2", "--json", "--", "--layout", layout))["id"]
    ended(ugro, job, "failed")
    whole, torn = checkpoints(ugro, job)
    assert (whole["name"], whole["kind"], whole["step"], whole["problem"]) == (name, kind, 20, None)
    assert whole["split"] and [place["node"] for place in whole["places"]] == ["gpu-master", "gpu1"]
    assert torn["step"] == 40 and torn["problem"] and not torn["whole"]
    refused = ugro("resume", job, "--from", "40", "--yes")
    assert refused.returncode == 2 and torn["problem"] in refused.stderr
    document(ugro("resume", job, "--yes", "--json"))
    ended(ugro, job, "succeeded")
    assert lines(ugro, job, "rank") == [f"rank {rank} has {rank} 20 {own}" for rank in range(2)]
