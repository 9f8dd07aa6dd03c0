"""Files of jobs through the service layer: listed, copied to this machine, copied to nodes."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
from door import Door

from ugro.common.errors import InputError
from ugro.common.models.event import EventKind
from ugro.common.models.job import Job, JobState
from ugro.nodes.remote.files.fetch import part_of
from ugro.service.schemas.files import ListFiles, Pull, PullDocument, Push
from ugro.service.schemas.logs import Follow, JobUpdate
from ugro.service.schemas.notices import CodeSent
from ugro.service.schemas.queries import ShowJob

WRITES = """\
import os
os.makedirs("out/deep")
open("out/model.bin", "wb").write(bytes(range(256)) * 4096)
open("out/deep/run.sh", "w").write("#!/bin/sh\\n")
os.chmod("out/deep/run.sh", 0o755)
open("out/empty", "w")
open("out/new\\nline\\x1b[31m", "w").write("x")
os.symlink("/etc/passwd", "out/passwd")
os.mkfifo("out/fifo")
"""


@pytest.fixture
def job(door: Door) -> Job:
    """A job that succeeded and left files."""
    return door.until(door.submit(WRITES, outputs=["out/**"]), JobState.SUCCEEDED)


def pulled(door: Door, job: Job, to: Path, *paths: str) -> PullDocument:
    """What came of a pull that has to succeed."""
    came = door.call(Pull(job=job.id, to=str(to), paths=paths))
    assert came.exit_code == 0, came.answer
    return came.answer


def on_node(door: Door, job: Job) -> Path:
    """The folder in which the script of a job ran."""
    return door.project.parent / "node/jobs" / job.id / "code"


def test_lists_what_the_folder_of_a_job_holds(door: Door, job: Job) -> None:
    found = door.call(ListFiles(job=job.id))
    [node] = found.nodes
    assert (found.path, node.node, node.exists, node.more, found.silent) == ("", "here", True, False, ())
    assert [(one.path, one.kind) for one in node.files] == [("out", "folder"), ("t.py", "file")]
    [node] = door.call(ListFiles(job=job.id, path="out/", depth=2)).nodes
    kinds = {one.path.removeprefix("out/"): one.kind for one in node.files}
    assert kinds == {
        "deep": "folder",
        "deep/run.sh": "file",
        "empty": "file",
        "fifo": "other",
        "model.bin": "file",
        "new\nline\x1b[31m": "file",
        "passwd": "link",
    }
    assert [one.path for one in node.files if one.executable] == ["out/deep/run.sh"]
    [node] = door.call(ListFiles(job=job.id, path="out/model.bin")).nodes
    assert [one.bytes for one in node.files] == [2**20]


def test_copies_the_declared_outputs_and_nothing_again(door: Door, job: Job, tmp_path: Path) -> None:
    came = pulled(door, job, tmp_path / "here")
    assert [one.path for one in came.files] == [
        *("out/deep/run.sh", "out/empty", "out/model.bin", "out/new\nline\x1b[31m"),
    ]
    assert came.left_out == ("out/fifo", "out/passwd") and came.unmatched == ()
    model = tmp_path / "here/out/model.bin"
    assert model.read_bytes() == (on_node(door, job) / "out/model.bin").read_bytes()
    assert came.files[2].sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert model.stat().st_mtime_ns == (on_node(door, job) / "out/model.bin").stat().st_mtime_ns
    assert (tmp_path / "here/out/deep/run.sh").stat().st_mode & stat.S_IXUSR and not model.stat().st_mode & 0o111
    assert [one for one in door.told if isinstance(one, CodeSent)][-1].done == came.bytes
    again = pulled(door, job, tmp_path / "here")
    assert {one.how for one in again.files} == {"same"} and sum(one.received for one in again.files) == 0


def test_continues_a_file_that_came_in_part(door: Door, job: Job, tmp_path: Path) -> None:
    whole = (on_node(door, job) / "out/model.bin").read_bytes()
    part = part_of(tmp_path / "out/model.bin")
    part.parent.mkdir()
    part.write_bytes(whole[:300_000])
    [one] = pulled(door, job, tmp_path, "out/model.bin").files
    assert (one.received, one.how) == (len(whole) - 300_000, "copied") and not part.exists()
    assert (tmp_path / "out/model.bin").read_bytes() == whole


def test_begins_again_where_the_part_is_of_another_file(door: Door, job: Job, tmp_path: Path) -> None:
    whole = (on_node(door, job) / "out/model.bin").read_bytes()
    part = part_of(tmp_path / "out/model.bin")
    part.parent.mkdir()
    part.write_bytes(b"other" * 1000)
    [one] = pulled(door, job, tmp_path, "out/model.bin").files
    assert one.received == len(whole) and (tmp_path / "out/model.bin").read_bytes() == whole


def test_replaces_a_file_that_differs_and_adds_what_one_grew_by(door: Door, job: Job, tmp_path: Path) -> None:
    pulled(door, job, tmp_path, "out/*.bin", "t.py")
    theirs, ours = on_node(door, job) / "out/model.bin", tmp_path / "out/model.bin"
    with theirs.open("ab") as file:
        file.write(b"more")
    [one] = pulled(door, job, tmp_path, "out/*.bin").files
    assert one.received == 4 and ours.read_bytes() == theirs.read_bytes()
    theirs.write_bytes(b"x" * theirs.stat().st_size)
    [one] = pulled(door, job, tmp_path, "out/*.bin").files
    assert one.received == one.bytes and ours.read_bytes() == theirs.read_bytes()


def test_says_what_is_named_and_not_there(door: Door, job: Job, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{job.id} has nothing named no/\*\* on here") as refusal:
        door.call(Pull(job=job.id, to=str(tmp_path), paths=("no/**",)))
    assert refusal.value.hint == f"see what there is: ugro ls {job.id}"
    with pytest.raises(InputError, match=f"{job.id} has no no on here"):
        door.call(ListFiles(job=job.id, path="no"))
    came = door.call(Pull(job=job.id, to=str(tmp_path), paths=("no/**", "t.py")))
    assert (came.exit_code, came.answer.unmatched, len(came.answer.files)) == (2, ("no/**",), 1)


@pytest.mark.parametrize("path", ["/etc/passwd", "~/x", "../../x", "out/../../x", "a\0b"])
def test_refuses_paths_outside_of_the_folder(door: Door, job: Job, tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match="job's folder|a path or a glob is expected"):
        door.call(Pull(job=job.id, to=str(tmp_path), paths=(path,)))
    with pytest.raises(InputError, match="job's folder|a path or a glob is expected"):
        door.call(ListFiles(job=job.id, path=path))


def test_follows_no_link_to_a_folder_either(door: Door, job: Job, tmp_path: Path) -> None:
    (on_node(door, job) / "etc").symlink_to("/etc")
    with pytest.raises(InputError, match="has nothing named etc/passwd"):
        door.call(Pull(job=job.id, to=str(tmp_path), paths=("etc/passwd",)))
    came = door.call(Pull(job=job.id, to=str(tmp_path), paths=("etc", "t.py")))
    assert came.answer.left_out == ("etc",) and [one.path for one in came.answer.files] == ["t.py"]


def test_asks_for_names_where_no_outputs_are_declared(door: Door) -> None:
    job = door.until(door.submit("pass\n"), JobState.SUCCEEDED)
    with pytest.raises(InputError, match=f"{job.id} declares no outputs") as refusal:
        door.call(Pull(job=job.id))
    assert refusal.value.hint.startswith(f"name files: ugro pull {job.id} 'out/**'; or declare them: --outputs")


def test_has_no_files_of_a_job_that_waits(door: Door, tmp_path: Path) -> None:
    job = door.submit("pass\n", hold=True, outputs=["out"])
    for request in (ListFiles(job=job.id), Pull(job=job.id, to=str(tmp_path))):
        with pytest.raises(InputError, match=f"{job.id} has no files: it is held and has not started") as refusal:
            door.call(request)  # type: ignore[arg-type]
        assert refusal.value.hint == f"ugro why {job.id}"
    with pytest.raises(InputError, match="did not run on gpu9"):
        door.call(ListFiles(job=door.until(door.submit("pass\n"), JobState.SUCCEEDED).id, node="gpu9"))


def test_names_a_file_that_cannot_be_read(door: Door, job: Job, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (on_node(door, job) / "out/model.bin").chmod(0)
    came = door.call(Pull(job=job.id, to=str(tmp_path)))
    [missing] = came.answer.missing
    assert (missing.path, missing.reason, came.exit_code) == ("out/model.bin", "Permission denied", 3)
    assert len(came.answer.files) == 3


def test_brings_declared_outputs_to_the_master_once_the_job_has_succeeded(door: Door, job: Job) -> None:
    copy = door.store.jobs.files(job.id).outputs
    document = door.call(ShowJob(job=job.id)).answer.outputs
    assert document and (document.state, document.files, document.folder) == ("here", 4, str(copy))
    assert (copy / "out/model.bin").read_bytes() == (on_node(door, job) / "out/model.bin").read_bytes()
    [event] = [one for one in door.store.timeline.of_job(job.id) if one.kind == EventKind.OUTPUTS]
    assert event.message == f"4 outputs (1 MiB) copied to {copy}" and door.store.outputs.owed() == []


def test_follows_a_job_until_its_outputs_are_here(door: Door) -> None:
    job = door.submit(WRITES, outputs=["out/*.bin", "no"])
    *_, last = door.stream(Follow(job=job.id))
    assert isinstance(last, JobUpdate) and last.job.outputs
    assert (last.job.outputs.state, last.job.outputs.files) == ("here", 1)


def test_copies_a_folder_to_a_node_and_nothing_again(door: Door, tmp_path: Path) -> None:
    data = tmp_path / "set"
    (data / "deep").mkdir(parents=True)
    (data / "train.bin").write_bytes(bytes(range(256)) * 3000)
    (data / "deep/run.sh").write_text("#!/bin/sh\n")
    (data / "deep/run.sh").chmod(0o755)
    (data / "empty\n").touch()
    (data / "link").symlink_to("/etc")
    there = door.project.parent / "node/data/set"
    went = door.call(Push(path=str(data), node="all"))
    [node] = went.answer.nodes
    assert (went.exit_code, node.folder, node.sent, node.same) == (0, str(there), 768_010, 0)
    assert went.answer.left_out == ("set/link",) and not (there / "link").exists()
    assert (there / "train.bin").read_bytes() == (data / "train.bin").read_bytes()
    assert (there / "deep/run.sh").stat().st_mode & stat.S_IXUSR and (there / "empty\n").stat().st_size == 0
    [node] = door.call(Push(path=str(data), node="here")).answer.nodes
    assert (node.sent, node.same) == (0, 3)
    (there / "train.bin").rename(there / "train.bin.ugro-part")
    with (there / "train.bin.ugro-part").open("r+b") as file:
        file.truncate(500_000)
    [node] = door.call(Push(path=str(data), node="here")).answer.nodes
    assert (node.sent, node.same) == (268_000, 2)
    assert (there / "train.bin").read_bytes() == (data / "train.bin").read_bytes()


def test_pushes_no_path_or_node_that_is_not_there(door: Door, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no: |No such file or directory"):
        door.call(Push(path=str(tmp_path / "no"), node="here"))
    with pytest.raises(InputError, match="gpu9"):
        door.call(Push(path=str(tmp_path), node="gpu9"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="bare has no files"):
        door.call(Push(path=str(tmp_path / "bare"), node="here"))
