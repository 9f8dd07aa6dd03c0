"""Results and data over SSH: outputs of three nodes, of which one is away for a while; data that goes to all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ugro.sandbox.cluster import Sandbox
from ugro.testing.commands import Ugro, document

TRAIN = """\
import os, pathlib
rank, out = os.environ["RANK"], pathlib.Path("out")
out.mkdir()
(out / f"rank{rank}").write_text(rank)
(out / "seed").write_text(rank)
(out / "same").write_bytes(bytes(100_000))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text(TRAIN)
    return folder


@pytest.fixture(scope="module")
def launched(ugro: Ugro) -> str:
    """Run a job that writes outputs, `demo`. Return what its launch printed."""
    done = ugro("launch", "train.py", "--outputs", "out/**", "--name", "demo", "--follow")
    assert done.returncode == 0
    return done.stdout


@pytest.mark.long
def test_outputs_come_by_themselves_and_by_pull(ugro: Ugro, project: Path, sandbox: Sandbox, launched: str) -> None:
    kept = Path(sandbox.environment()["UGRO_HOME"]) / "jobs/job-001/outputs"
    assert f"job-001 succeeded\noutputs: 7 files (98 KiB) in {kept}\n" in launched
    assert f"7 files (98 KiB) in {kept}" in ugro("status", "demo").stdout
    listed = ugro("ls", "demo", "out").stdout
    assert listed.count("out/same") == 3 and "gpu1: ~/.ugro/jobs/job-001/code/out" in listed

    came = ugro("pull", "demo")
    assert came.returncode == 0 and f"7 files copied (98 KiB): {project}/job-001" in came.stdout
    names = sorted(
        str(path.relative_to(project / "job-001")) for path in (project / "job-001").rglob("*") if path.is_file()
    )
    assert names == [
        ".ugroignore",
        *("gpu-master/out/seed", "gpu1/out/seed", "gpu2/out/seed"),
        *("out/rank0", "out/rank1", "out/rank2", "out/same"),
    ]
    assert (project / "job-001/gpu2/out/seed").read_text() == "2"
    assert "7 files already here" in ugro("pull", "demo").stdout
    document_of = document(ugro("pull", "demo", "out/same", "--to", "other", "--json"))
    assert [(one["path"], one["same_on"]) for one in document_of["files"]] == [("out/same", ["gpu1", "gpu2"])]


@pytest.mark.usefixtures("launched")
def test_says_what_is_wrong_and_what_came(ugro: Ugro, project: Path, sandbox: Sandbox) -> None:
    for words, message, hint in (
        (("pull", "demo", "no"), "job-001 has nothing named no", "ugro ls job-001"),
        (("pull", "demo", "../x"), "'../x': '..' leads out of the job's folder", "as `ugro ls JOB` shows it"),
        (("pull", "demo", "--node", "gpu9"), "job-001 did not run on gpu9", "it ran on gpu-master, gpu1, gpu2"),
        (("ls", "job-009"), "job-009", ""),
        (("push", "nope", "gpu1"), "nope cannot be read: No such file or directory", ""),
    ):
        refused = ugro(*words)
        assert refused.returncode == 2 and message in refused.stderr and hint in refused.stderr, refused.stderr
    (project / "data").mkdir()
    (project / "data/x.bin").write_bytes(os.urandom(200_000))
    (project / "data/link").symlink_to("/etc")
    went = ugro("push", "data", "all")
    assert went.returncode == 0 and went.stdout.count("1 file sent (195 KiB)") == 3
    assert "left out, since they are no files (links are not followed): data/link" in went.stdout
    assert "gpu1: 1 file already there" in ugro("push", "data", "gpu1").stdout
    sandbox.unplug("gpu2")
    try:
        came = ugro("pull", "demo", "--to", "part")
        assert came.returncode == 3 and "5 files copied" in came.stdout and "error: gpu2: " in came.stderr
        assert ugro("ls", "demo", "out").returncode == 3
        (project / "data/x.bin").write_bytes(os.urandom(200_000))
        went = ugro("push", "data", "all")
        assert went.returncode == 3 and "gpu1: 1 file sent" in went.stdout and "error: gpu2: " in went.stderr
    finally:
        sandbox.unplug()
    came = ugro("pull", "demo", "--to", "part")
    assert came.returncode == 0 and (project / "part/out/rank2").read_text() == "2"
