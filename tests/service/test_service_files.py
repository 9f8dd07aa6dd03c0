"""Files of jobs through the service layer: listed, copied to this machine, copied to nodes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from door import Door

from ugro.cli.render.files import failure_of
from ugro.common.errors import InputError
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.nodes.code_sync import select_files
from ugro.service.schemas.files import ListFiles, ListOutputs, Pull, Push
from ugro.service.schemas.logs import Follow, JobUpdate
from ugro.service.schemas.notices import CodeSent
from ugro.service.schemas.queries import ShowJob

WRITES = """\
import os
os.makedirs("out/deep")
open("out/model.bin", "wb").write(bytes(range(256)) * 4096)
open("out/deep/run.sh", "w").write("#!/bin/sh\\n")
os.chmod("out/deep/run.sh", 0o755)
open("out/new\\nline\\x1b[31m", "w").write("x")
os.symlink("/etc/passwd", "out/passwd")
os.mkfifo("out/fifo")
"""


def on_node(door: Door, job: Job) -> Path:
    """The folder in which the script of a job ran."""
    return door.project.parent / "node/jobs" / job.id / "code"


def test_lists_and_copies_what_a_job_left_and_brings_its_outputs(door: Door, tmp_path: Path) -> None:
    job = door.succeeded(WRITES, outputs=["out/**"])
    found = door.call(ListFiles(job=job.id))
    [node] = found.nodes
    assert (found.path, node.node, node.exists, node.more, found.silent) == ("", "here", True, False, ())
    assert [(one.path, one.kind) for one in node.files] == [("out", "folder"), ("t.py", "file")]
    [node] = door.call(ListFiles(job=job.id, path="out/", depth=2)).nodes
    kinds = {one.path.removeprefix("out/"): one.kind for one in node.files}
    assert kinds == {
        "deep": "folder",
        "deep/run.sh": "file",
        "fifo": "other",
        "model.bin": "file",
        "passwd": "link",
        "new\nline\x1b[31m": "file",
    }
    assert [one.path for one in node.files if one.executable] == ["out/deep/run.sh"]
    [node] = door.call(ListFiles(job=job.id, path="out/model.bin")).nodes
    assert [one.bytes for one in node.files] == [2**20]

    came = door.call(Pull(job=job.id, to=str(tmp_path / "to")))
    assert came.exit_code == 0 and came.answer.left_out == ("out/fifo", "out/passwd") and came.answer.unmatched == ()
    assert [one.path for one in came.answer.files] == ["out/deep/run.sh", "out/model.bin", "out/new\nline\x1b[31m"]
    theirs = on_node(door, job) / "out/model.bin"
    assert (tmp_path / "to/out/model.bin").read_bytes() == theirs.read_bytes()
    assert [one for one in door.told if isinstance(one, CodeSent)][-1].done == came.answer.bytes
    again = door.call(Pull(job=job.id, to=str(tmp_path / "to"))).answer
    assert {(one.how, one.received) for one in again.files} == {("same", 0)}

    copy = door.store.jobs.files(job.id).outputs
    document = door.call(ShowJob(job=job.id)).answer.outputs
    assert document and (document.state, document.files, document.folder) == ("here", 3, str(copy))
    assert (copy / "out/model.bin").read_bytes() == theirs.read_bytes()
    listed = door.call(ListOutputs(job=job.id))
    assert [one.path for one in listed.files] == [one.path for one in came.answer.files]
    assert (listed.folder, listed.beyond, listed.files[1].bytes) == (str(copy), 0, 2**20)
    (copy / "out/half.bin.ugro-part").touch()
    (copy / "out/link").symlink_to("/etc/passwd")
    first = door.call(ListOutputs(job=job.id, limit=1))
    assert ([one.path for one in first.files], first.beyond) == (["out/deep/run.sh"], 2)
    [node] = door.call(ListFiles(job=job.id, path="out", limit=2)).nodes
    assert ([one.path for one in node.files], node.beyond, node.more) == (["out/deep", "out/fifo"], 3, False)
    [event] = [one for one in door.store.timeline.of_job(job.id) if one.kind == EventKind.OUTPUTS]
    assert event.message == f"3 outputs (1 MiB) copied to {copy}" and door.store.outputs.owed() == []


def test_refuses_what_is_not_there_and_what_is_outside(door: Door, tmp_path: Path) -> None:
    job = door.succeeded(WRITES)
    with pytest.raises(InputError, match=rf"{job.id} has nothing named no/\*\* on here") as refusal:
        door.call(Pull(job=job.id, to=str(tmp_path), paths=("no/**",)))
    assert refusal.value.hint == f"see what there is: ugro ls {job.id}"
    with pytest.raises(InputError, match=f"{job.id} has no no on here"):
        door.call(ListFiles(job=job.id, path="no"))
    came = door.call(Pull(job=job.id, to=str(tmp_path), paths=("no/**", "t.py")))
    assert (came.exit_code, came.answer.unmatched, len(came.answer.files)) == (2, ("no/**",), 1)
    with pytest.raises(InputError, match="did not run on gpu9"):
        door.call(ListFiles(job=job.id, node="gpu9"))
    with pytest.raises(InputError, match=f"{job.id} declares no outputs") as refusal:
        door.call(Pull(job=job.id))
    assert refusal.value.hint.startswith(f"name files: ugro pull {job.id} 'out/**'; or declare them: --outputs")
    for path in ("/etc/passwd", "~/x", "../../x", "out/../../x", "a\0b"):
        with pytest.raises(InputError, match=r"job's folder|a path or a glob is expected"):
            door.call(Pull(job=job.id, to=str(tmp_path), paths=(path,)))
        with pytest.raises(InputError, match=r"job's folder|a path or a glob is expected"):
            door.call(ListFiles(job=job.id, path=path))


def test_makes_a_folder_that_is_not_sent_with_later_jobs(door: Door) -> None:
    job = door.succeeded("pass\n")
    with pytest.raises(InputError, match=r"/proc/x cannot be made: No such file or directory") as refusal:
        door.call(Pull(job=job.id, to="/proc/x", paths=("t.py",)))
    assert refusal.value.hint == "choose another folder: --to DIR"
    before = select_files(door.project).files
    door.call(Pull(job=job.id, to=str(door.project / "new/folder"), paths=("t.py",)))
    assert (door.project / "new/folder/t.py").is_file() and select_files(door.project).files == before
    (there := door.project / "there").mkdir()
    door.call(Pull(job=job.id, to=str(there), paths=("t.py",)))
    assert "there/t.py" in select_files(door.project).files, "a folder of the user's is sent as ever"


def test_has_no_files_of_a_job_that_waits(door: Door, tmp_path: Path) -> None:
    job = door.submit("pass\n", hold=True, outputs=["out"])
    with pytest.raises(InputError, match=f"{job.id} has no files: it is held and has not started") as refusal:
        door.call(ListFiles(job=job.id))
    assert refusal.value.hint == f"see why it waits: ugro why {job.id}"
    with pytest.raises(InputError, match=f"{job.id} has no files"):
        door.call(Pull(job=job.id, to=str(tmp_path)))
    assert door.call(ListOutputs(job=job.id)).files == ()


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


def test_pushes_no_path_and_to_no_node_that_is_not_there(door: Door, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cannot be read: No such file or directory"):
        door.call(Push(path=str(tmp_path / "no"), node="here"))
    with pytest.raises(InputError, match="gpu9"):
        door.call(Push(path=str(tmp_path), node="gpu9"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="bare has no files"):
        door.call(Push(path=str(tmp_path / "bare"), node="here"))


def test_a_pull_that_copies_nothing_is_an_error(door: Door, tmp_path: Path) -> None:
    job = door.succeeded(WRITES, outputs=["out/passwd"])
    for paths in (("out/passwd",), ("out/fifo", "out/passwd"), ()):
        came = door.call(Pull(job=job.id, paths=paths, to=str(tmp_path / "to")))
        assert came.exit_code == 2 and not came.answer.files and not (tmp_path / "to").exists()
        error = failure_of(came)
        assert "nothing was copied" in error.message and "links are not followed: " in error.message
        assert "out/passwd" in error.message and f"ugro ls {job.id}" in error.hint
    assert door.call(Pull(job=job.id, paths=("out/passwd", "out/model.bin"), to=str(tmp_path / "to"))).exit_code == 0


def test_refuses_a_place_that_is_no_folder_of_this_machine(door: Door, tmp_path: Path) -> None:
    job = door.succeeded(WRITES)
    for to, problem in (("", "--to is empty"), ("gpu1:/x", "another machine"), ("ob@gpu1:", "another machine")):
        with pytest.raises(InputError, match=problem):
            door.call(Pull(job=job.id, paths=("out/model.bin",), to=to))
    came = door.call(Pull(job=job.id, paths=("out/model.bin",), to=str(tmp_path / "a:b")))
    assert came.exit_code == 0 and (tmp_path / "a:b/out/model.bin").exists()
    with pytest.raises(InputError, match="--to is empty"):
        door.call(Push(path=str(tmp_path), node="here", to=""))
    with pytest.raises(InputError, match="the path is empty"):
        door.call(Push(path="", node="here"))
