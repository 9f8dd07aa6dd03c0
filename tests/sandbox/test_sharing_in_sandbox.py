"""Two jobs that share a GPU, and one that waits to have it alone: real SSH, real ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from ugro.testing.commands import Ugro, document, until

CLUSTER = ("gpu1", "gpu2")

SHARER = """\
import os, pathlib, time
print("part", os.environ["UGRO_GPU_MEMORY_MIB"], 0 < float(os.environ["UGRO_GPU_FRACTION"]) < 1, flush=True)
while not pathlib.Path(os.environ["STOP"]).exists():
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "sharer.py").write_text(SHARER)
    (folder / "brief.py").write_text("print('alone')")
    return folder


@pytest.mark.long
def test_two_jobs_share_a_gpu_and_one_that_wants_it_alone_waits(ugro: Ugro, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    on = ("--nodes", "gpu1", "--env", f"STOP={stop}")
    ugro("launch", "sharer.py", "--vram", "4G", "--share", *on, "--name", "first")
    ugro("launch", "--share", "0.25", "sharer.py", *on, "--name", "second")
    ugro("launch", "brief.py", "--gpus", "1", "--nodes", "gpu1", "--name", "alone")
    ugro("launch", "--share", "0.2", "sharer.py", *on, "--name", "late")
    shown = {name: document(ugro("status", name, "--json")) for name in ("first", "second", "alone", "late")}
    assert [shown[name]["state"] for name in shown] == ["running", "running", "queued", "queued"]
    parts = [shown[name]["placement"]["shares"][0] for name in ("first", "second")]
    assert parts[0]["gpus"] == parts[1]["gpus"] and parts[0]["part"]["memory_mib"] == 4096
    assert parts[1]["part"]["memory_mib"] == pytest.approx(2047, abs=200)
    why = shown["second"]["placement"]["why"]
    assert why.startswith("shares GPU 0 of gpu1 with job-001: ") and why.endswith(" free")
    until(lambda: document(ugro("why", "alone", "--json"))["reasons"] == ["gpu1 is held by job-001, job-002"])
    until(lambda: document(ugro("why", "late", "--json"))["reasons"] == ["behind job-003"])
    until(lambda: "part 4096 True" in ugro("logs", "first").stdout)
    nodes = {node["name"]: node for node in document(ugro("nodes", "--json"))}
    assert nodes["gpu1"]["gpus"][0]["jobs"] == ["job-001", "job-002"] and nodes["gpu2"]["gpus"][0]["jobs"] == []
    stop.touch()
    assert [ugro("wait", name).returncode for name in shown] == [0, 0, 0, 0]
    order = [document(ugro("status", name, "--json"))["started_at"] for name in ("alone", "late")]
    assert order == sorted(order), "the one that waited first"


def test_refuses_shares_that_cannot_be(ugro: Ugro) -> None:
    for wrong, said in (
        (("--share",), "how much memory does it take? --vram 4G --share"),
        (("--share", "0.5", "--nodes", "2"), "no --nodes 2"),
        (("--vram", "40G", "--share"), "1 GPU with 40.0 GiB of memory to share"),
        (("--gpus", "4"), "requested: 4 GPUs in all; only 2 can be given"),
    ):
        refused = ugro("launch", *wrong, "brief.py")
        assert refused.returncode == 2 and said in refused.stderr, refused.stderr
