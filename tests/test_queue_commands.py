"""The commands about waiting jobs, as a person types them, on a cluster of this machine alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

INVENTORY = "nodes:\n  here: {address: 127.0.0.1, local: true, base_dir: BASE}\n"


SMI = """#!/bin/sh
case $* in *query-gpu*)
    cat << .
index, uuid, memory.total [MiB], memory.used [MiB], memory.free [MiB], name
0, GPU-00000000-1111-2222-3333-444444444444, 8192, 10, 8182, NVIDIA RTX 3070 Ti
.
    ;;
*) echo 'gpu_uuid, pid, used_gpu_memory [MiB], process_name' ;;
esac
"""


class Master:
    """A state directory, one local node, and a project with a script."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "state"
        (root / "inventory.yaml").write_text(INVENTORY.replace("BASE", f"{root}/node"))
        (root / "t.py").write_text("print('fine')\n")

    def ugro(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("UGRO_")}
        env |= {"UGRO_HOME": str(self.home), "HOME": str(self.root)}
        done = subprocess.run(
            [sys.executable, "-m", "ugro", *words], cwd=self.root, env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.ugro(*words, "--json").stdout)


@pytest.fixture
def master(tmp_path: Path) -> Master:
    return Master(tmp_path)


def test_a_held_job_is_told_released_and_reprioritized(master: Master) -> None:
    said = master.ugro("launch", "t.py", "--hold", "--name", "later", "--priority", "3", "--not-before", "+2h").stdout
    assert said.startswith("Job held (ID: job-001).") and "ugro release job-001" in said
    assert master.json("status", "later")["priority"] == 3
    reasons = master.json("why", "later")["reasons"]
    assert any("ugro release" in reason or "held" in reason for reason in reasons) and len(reasons) == 2
    assert master.json("release", "later")["state"] == "queued"
    assert "not before" in master.json("status", "later")["reason"]
    assert master.json("reprioritize", "later", "-5")["priority"] == -5
    assert master.json("hold", "later", "--reason", "for Ada")["reason"] == "held: for Ada"
    assert master.json("cancel", "later")["state"] == "cancelled"
    assert "only a job that waits" in master.ugro("hold", "later", code=2).stderr
    kinds = [event["kind"] for event in master.json("events", "later")]
    assert kinds == ["submitted", "released", "priority", "held", "cancel", "cancelled"]


def test_what_cannot_be_meant_is_refused(master: Master) -> None:
    for words, said in (
        (("--time", "0"), "time_limit"),
        (("--time", "soon"), "2h"),
        (("--not-before", "25:99"), "22:30"),
        (("--vram", "much"), "10G"),
        (("--after", "job-077"), "no job 'job-077'"),
        (("--priority", "5000"), "1000"),
    ):
        assert said in master.ugro("launch", "t.py", *words, code=2).stderr
    assert not list(master.home.glob("jobs/*"))
    assert "nodes are: here" in master.ugro("drain", "nowhere", "--reason", "x", code=2).stderr
    assert "reason is needed" in master.ugro("drain", "here", code=2).stderr


def test_a_drained_node_is_shown_and_keeps_jobs_waiting(master: Master) -> None:
    master.ugro("drain", "here", "--reason", "new fan")
    assert master.json("nodes")[0]["drained"]["reason"] == "new fan"
    assert "drained: new fan" in master.ugro("nodes").stdout
    said = master.ugro("launch", "t.py").stdout
    assert "job-001" in said and "new fan" in said
    assert any("new fan" in reason for reason in master.json("why", "job-001")["reasons"])
    assert "gets jobs again" in master.ugro("undrain", "here").stdout


def test_status_shows_what_matters_and_the_rest_when_asked(master: Master) -> None:
    for number in range(12):
        master.ugro("launch", "t.py", "--hold", "--name", f"n{number}")
        if number < 11:
            master.ugro("cancel", f"n{number}")
    names = [job["name"] for job in master.json("status")["jobs"]]
    assert names == [f"n{number}" for number in range(1, 12)], "the last ten that ended, and what waits"
    assert len(master.json("status", "--all")["jobs"]) == 12
    assert [job["name"] for job in master.json("status", "--name", "n1?")["jobs"]] == ["n10", "n11"]
    assert [job["name"] for job in master.json("status", "--state", "held")["jobs"]] == ["n11"]
    assert len(master.json("status", "--since", "1h")["jobs"]) == 12
    assert master.json("state", "rebuild") == {"live": 1, "ended": 11}


def test_memory_that_will_not_do_is_told_and_asked_about(master: Master) -> None:
    smi = master.root / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(SMI)
    smi.chmod(0o755)
    os.environ["PATH"] = f"{smi.parent}:{os.environ['PATH']}"
    try:
        refused = master.ugro("launch", "t.py", "--hold", "--", "--model", "llama-7b", code=2)
        assert "does not train in" in refused.stderr and "--yes" in refused.stderr and "QLoRA" in refused.stderr
        accepted = master.ugro("launch", "t.py", "--hold", "--yes", "--", "--model", "llama-7b")
        assert "does not train in" in accepted.stderr
        assert master.json("status", "job-001")["predicted_mib"] > 100_000
        assert "no node can give that" in master.ugro("launch", "t.py", "--vram", "10G", code=2).stderr
    finally:
        os.environ["PATH"] = os.environ["PATH"].partition(":")[2]


def test_the_last_words_of_a_submission_are_the_next_commands(master: Master) -> None:
    master.ugro("launch", "t.py", "--hold", "--name", "first")
    said = master.ugro("launch", "t.py", "--after", "first").stdout
    assert "Job queued (ID: job-002)." in said
    for command in ("ugro why job-002", "ugro logs -f job-002", "ugro hold job-002", "ugro cancel job-002"):
        assert command in said
