"""`ugro resume --new-code` on the sandbox: from a mistake in a script to the end of the corrected one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from code_folders import plant, tree

from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, document

CLUSTER = ("gpu-master", "gpu1")

BROKEN = """\
import os, zipfile
import old
if os.environ["RANK"] == "0":
    os.makedirs("out", exist_ok=True)
    with zipfile.ZipFile("out/checkpoint-70.pt", "w") as file:
        file.writestr("archive/data.pkl", "x" * 1000)
print("step 75 / 100", flush=True)
raise ValueError("a mistake")
"""
MENDED = """\
import argparse, os, zipfile
import new
parser = argparse.ArgumentParser()
parser.add_argument("--resume-from")
parser.add_argument("--rate", default="0.1")
args = parser.parse_args()
print("mended", args.rate, os.path.exists("old.py"), zipfile.is_zipfile(args.resume_from), flush=True)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("project"), {"train.py": BROKEN, "old.py": ""})


def on_nodes(sandbox: Sandbox) -> dict[str, set[str]]:
    """The files of the job's code folder on each node that has one."""
    folders = {path for path in sandbox.root.rglob("jobs/job-001/code") if "code.sha256" in os.listdir(path.parent)}
    return {str(path): {name for name in tree(path) if not name.endswith(".pyc")} for path in folders}


@pytest.mark.timeout(300)
@pytest.mark.long
def test_a_mended_script_goes_on_from_the_checkpoint(ugro: Ugro, sandbox: Sandbox, project: Path) -> None:
    failed = ugro("launch", "train.py", "--nodes", "2", "--follow")
    assert failed.returncode == 1
    assert "next:  for the cause and how to resume: ugro explain job-001" in failed.stderr, failed.stderr
    explained = document(ugro("explain", "job-001", "--json"))
    assert (explained["cause"], explained["resume"]) == ("python_exception", "ugro resume job-001 --new-code")
    assert "resume: ugro resume job-001 --new-code" in ugro("explain", "job-001").stdout
    there = on_nodes(sandbox)
    assert len(there) == 2 and set.union(*there.values()) == {"train.py", "old.py", "out/checkpoint-70.pt"}

    def refused(*words: str) -> str:
        """What is shown before the question is declined. Nothing changes."""
        done = ugro("resume", "job-001", "--new-code", *words)
        assert done.returncode == 2 and on_nodes(sandbox) == there, done.stderr
        assert document(ugro("status", "job-001", "--json"))["attempt"] == 1
        return done.stderr

    assert "The code is the same" in refused("--from", "0")
    (project / "old.py").unlink()
    plant(project, {"train.py": MENDED, "new.py": "", "out/checkpoint-70.pt": "of the person"})
    assert "the job wrote files where the new code has others: out/checkpoint-70.pt" in refused()
    (project / "out/checkpoint-70.pt").unlink()
    told = refused("--set", "rate=0.2")
    assert f"New code from {project}: 1 changed, 1 added, 1 removed\n  changed train.py\n  added new.py\n" in told
    assert (
        "  removed old.py\n  --rate (not given) → 0.2" in told
        and "confirmation needed, but stdin is not a terminal" in told
    )
    assert "the script has no argument 'epochs'" in refused("--set", "epochs=2")
    plant(project, {f"data/{number:02d}.txt": "" for number in range(20)})
    assert "  added data/07.txt\n  added data/08.txt\n  and 13 more" in refused()
    (project / ".ugroignore").write_text("train.py\n")
    assert "train.py is ignored" in refused()
    (project / ".ugroignore").write_text("data\n")

    resumed = document(ugro("resume", "job-001", "--new-code", "--set", "rate=0.2", "--yes", "--json"))
    changes = {"changed": ["train.py"], "added": [".ugroignore", "new.py"], "removed": ["old.py"]}
    assert resumed["code_changes"] == changes and resumed["attempt"] == 2
    ended = document(ugro("wait", "job-001", "--json"))
    assert ended["state"] == "succeeded"
    said = [line["text"] for line in document(ugro("logs", "job-001", "--json"))]
    assert [line for line in said if line.startswith("mended")] == ["mended 0.2 False True"] * 2
    now = on_nodes(sandbox)
    assert set.union(*now.values()) == {"train.py", "new.py", ".ugroignore", "out/checkpoint-70.pt"}
    [first] = ended["past"]
    assert first["code"]["attempt"] == 1 and ended["code"]["attempt"] == 2
    assert len({first["code"]["digest"], ended["code"]["digest"], None}) == 3
    events: list[dict[str, Any]] = document(ugro("events", "job-001", "--json"))
    [resumption] = [event["message"] for event in events if event["kind"] == "resumed"]
    assert f"new code {ended['code']['digest'][:12]} (1 changed, 2 added, 1 removed)" in resumption
