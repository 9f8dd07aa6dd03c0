"""What launches leave on disk, and how it goes, on the sandbox."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from code_folders import plant, tree

from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, document, until

CLUSTER = ("gpu-master", "gpu1")

WRITES = """\
import os, zipfile
with open("data.txt", "r+") as file:  # in place, as a job may
    print("found", file.read(), flush=True)
    file.seek(0)
    file.write("spoilt")
if os.environ["RANK"] == "0" and os.environ["UGRO_JOB"] == "job-001":
    with zipfile.ZipFile("checkpoint-70.pt", "w") as file:
        file.writestr("archive/data.pkl", "x" * 1000)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {f"pkg/{number}.py": str(number) for number in range(50)}
    return plant(tmp_path_factory.mktemp("project"), {"train.py": WRITES, "data.txt": "intact", **files})


def folders(sandbox: Sandbox) -> set[str]:
    return {path.name for path in sandbox.root.glob("home/*/.ugro/jobs/*")}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_launches_share_code_and_what_they_leave_goes(ugro: Ugro, sandbox: Sandbox, project: Path) -> None:
    for number in (1, 2):
        assert ugro("launch", "train.py", "--nodes", "2", "--follow").returncode == 0
        said = [line["text"] for line in document(ugro("logs", f"job-00{number}", "--json"))]
        assert said == ["found intact"] * 2, "no job sees what another one wrote"
    first, second = (Path(sandbox.environment()["UGRO_HOME"]) / f"jobs/job-00{number}" for number in (1, 2))
    assert tree(first / "snapshot") == tree(second / "snapshot") == tree(project)
    # Files that were written just before the first launch were read again at the second, and kept once all the same.
    assert all((second / "snapshot" / name).samefile(first / "snapshot" / name) for name in tree(project))

    ended = datetime.fromisoformat(document(ugro("status", "job-002", "--json"))["ended_at"])
    until(lambda: (datetime.now(UTC) - ended).total_seconds() > 1)
    shown = document(ugro("gc", "--older-than", "1s", "--json"))
    assert [(job["id"], job["kept"]) for job in shown["jobs"]] == [("job-001", "checkpoints"), ("job-002", None)]
    assert {node["node"] for node in shown["nodes"]} == {"gpu-master", "gpu1"} and not shown["unreachable"]
    assert folders(sandbox) == {"job-001", "job-002"}
    assert ugro("gc", "--older-than", "1s", "--delete").returncode == 0
    assert folders(sandbox) == {"job-001"} and not (second / "snapshot").exists()
    assert tree(first / "snapshot") == tree(project), "what was shared is still there"

    refused = ugro("rm", "job-001", "--yes")
    assert refused.returncode == 2 and "checkpoints: step 70" in refused.stderr
    [removed] = document(ugro("rm", "job-001", "--yes", "--with-checkpoints", "--json"))["removed"]
    assert {node["state"] for node in removed["nodes"]} == {"gone"} and not first.exists()
    assert folders(sandbox) == set()
    assert document(ugro("state", "rebuild", "--json"))["ended"] == 1
    assert ugro("launch", "train.py", "--nodes", "2", "--follow").stdout.count("found intact") == 2
    assert [job["id"] for job in document(ugro("status", "--json"))["jobs"]] == ["job-002", "job-003"]
