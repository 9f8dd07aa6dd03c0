"""Other code in the place of a job's earlier one: on one node, at every point where it can be cut short."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from code_folders import ODD_NAMES, plant, snapshot, tree

from ugro.common.errors import NodeRefused
from ugro.nodes.code_sync import Differences, conflicts, differences, push_code, read_manifest
from ugro.nodes.code_sync.manifest import digest_of, encoded
from ugro.nodes.remote.code.on_node import replace_code
from ugro.nodes.transport import LocalTransport
from ugro.testing import builders
from ugro.testing.cluster import write_forking_python
from ugro.testing.transport import Meddling

JOB = "~/jobs/job-001"


@pytest.fixture
def node(home: Path) -> LocalTransport:
    return LocalTransport(builders.this_machine(python=str(write_forking_python(home / "python"))))


@pytest.fixture
def job(home: Path) -> Path:
    """The job's folder on the node."""
    return home / "jobs/job-001"


def other(work: Path, files: dict[str, str], *gone: str, name: str = "new") -> Path:
    """A snapshot of the working directory once some files are written and others gone."""
    for path in gone:
        (work / path).unlink()
    return snapshot(plant(work, files), name)


def contents(folder: Path) -> dict[str, Any]:
    """What the files of a folder hold."""
    return {name: found[0] for name, found in tree(folder).items()}


# What differs


def test_names_what_differs_and_ignores_file_times(work: Path) -> None:
    before = snapshot(plant(work, {"same.py": "x", "a.py": "1", "old.py": "", "run.sh": "", "bin": "x"}))
    os.utime(work / "same.py", (1, 1))
    (work / "run.sh").chmod(0o755)
    (work / "bin").unlink()
    (work / "bin").symlink_to("a.py")
    now = other(work, {"a.py": "2", "pkg/new.py": ""}, "old.py")
    found = differences(read_manifest(before), read_manifest(now))
    assert found == Differences(("a.py", "bin", "run.sh"), ("pkg/new.py",), ("old.py",))
    assert not differences(read_manifest(before), read_manifest(before))


# On a node


async def test_new_code_comes_old_code_goes_and_what_the_job_wrote_stays(
    work: Path, job: Path, node: LocalTransport
) -> None:
    plant(work, {"t.py": "raise", "lib/old.py": "x", "both.txt": "alike", "kept/x.py": "x", "log.txt": "", "made": ""})
    before = snapshot(plant(work, {"data/" + os.fsdecode(name): "old" for name in ODD_NAMES}))
    await push_code(node, before, JOB)
    plant(job / "code", {"ckpt/checkpoint-70.pt": "weights", "kept/result.csv": "1,2", "both.txt": "alike, and more"})
    plant(job / "code", {"log.txt": "of the training", "lib/__pycache__/old.cpython-311.pyc": "bytecode"})
    (job / "code/made").unlink()
    names = {"data/" + os.fsdecode(name): "new" for name in ODD_NAMES[::2]}
    gone = ["data/" + os.fsdecode(name) for name in ODD_NAMES[1::2]]
    now = other(work, names | {"t.py": "mended", "pkg/new.py": "y"}, "lib/old.py", "kept/x.py", "log.txt", *gone)
    report = await push_code(node, now, JOB, before=[before])
    assert report.method in ("tar", "present")
    wrote = {
        "ckpt/checkpoint-70.pt": b"weights",
        "kept/result.csv": b"1,2",
        "both.txt": b"alike, and more",
        "log.txt": b"of the training",
    }
    assert contents(job / "code") == contents(now) | wrote
    assert not (job / "code/lib").exists(), "nothing but bytecode was left in it"
    assert sorted(os.listdir(job)) == ["code", "code.json", "code.sha256"]
    assert (job / "code.sha256").read_text().strip() == digest_of(read_manifest(now))
    assert (await push_code(node, now, JOB, before=[before])).method == "present"


async def test_a_file_may_take_the_place_of_a_folder_of_the_earlier_code_and_the_other_way_round(
    work: Path, job: Path, node: LocalTransport
) -> None:
    plant(work, {"conf/a.yaml": "1", "conf/sub/b.yaml": "2", "util": "file", "real/x": "x"})
    (work / "link").symlink_to("real")
    before = snapshot(work)
    await push_code(node, before, JOB)
    plant(job / "code/conf/__pycache__", {"a.cpython-311.pyc": ""})
    for path in ("conf/a.yaml", "conf/sub/b.yaml", "link", "util"):
        (work / path).unlink()
    (work / "conf/sub").rmdir()
    (work / "conf").rmdir()
    now = other(work, {"conf": "a file", "util/x.py": "x", "link/x": "y"})
    await push_code(node, now, JOB, before=[before])
    assert contents(job / "code") == contents(now)
    assert (job / "code/real/x").read_text() == "x", "nothing was written through the link"


@pytest.mark.parametrize(
    ("wrote", "new"),
    [
        ({"results.csv": "of the job"}, {"results.csv": "of the person"}),
        ({"t.py": "changed on the node"}, {"t.py": "mended"}),
        ({"out/checkpoint-70.pt": "weights"}, {"out": "a file"}),
        ({"out": "a file"}, {"out/x.py": "x"}),
        ({"sub/results": "of the job"}, {"sub": "a file in place of a folder of code and results"}),
    ],
)
async def test_refuses_new_code_where_the_job_wrote_a_file_and_changes_nothing(
    work: Path, job: Path, node: LocalTransport, wrote: dict[str, str], new: dict[str, str]
) -> None:
    before = snapshot(plant(work, {"t.py": "raise", "old.py": "", "sub/x.py": ""}))
    await push_code(node, before, JOB)
    plant(job / "code", wrote)
    if "sub" in new:
        (work / "sub/x.py").unlink()
        (work / "sub").rmdir()
    now = other(work, new | {"more.py": ""}, "old.py")
    there = tree(job)
    assert await conflicts(node, now, JOB, [before]) == list(new)
    assert tree(job) == there, "asking changes nothing"
    told = f"the job wrote files where the new code has others: {', '.join(new)}"
    with pytest.raises(NodeRefused, match=told) as refusal:
        await push_code(node, now, JOB, before=[before])
    assert "move them away on the node" in refusal.value.hint
    assert tree(job) == there
    for name in wrote:
        (job / "code" / name).unlink()
    await push_code(node, now, JOB, before=[before])
    assert contents(job / "code") == contents(now)


async def test_a_file_that_the_job_writes_while_code_is_sent_is_not_lost(
    work: Path, job: Path, node: LocalTransport
) -> None:
    before = snapshot(plant(work, {"t.py": "raise", "old.py": ""}))
    await push_code(node, before, JOB)
    now = other(work, {"t.py": "mended", "results.csv": "of the person"}, "old.py")
    busy = Meddling(node.node, "replace", lambda: (job / "code/results.csv").write_text("of the job"))
    with pytest.raises(NodeRefused, match=r"the job wrote files where the new code has others: 'results\.csv'"):
        await push_code(busy, now, JOB, before=[before])
    assert contents(job / "code") == contents(before) | {"results.csv": b"of the job"}
    assert sorted(os.listdir(job)) == ["code", "code.json", "code.sha256"]


async def test_nothing_is_written_through_a_link_of_the_job(work: Path, job: Path, node: LocalTransport) -> None:
    before = snapshot(plant(work, {"t.py": ""}))
    await push_code(node, before, JOB)
    elsewhere = plant(work.parent / "scratch", {"x.py": "precious"})
    (job / "code/out").symlink_to(elsewhere)
    now = other(work, {"out/x.py": "new"})
    with pytest.raises(NodeRefused, match=r"out/x\.py"):
        await push_code(node, now, JOB, before=[before])
    assert (elsewhere / "x.py").read_text() == "precious"


async def test_code_that_was_moved_behind_a_link_is_left_there(work: Path, job: Path, node: LocalTransport) -> None:
    before = snapshot(plant(work, {"t.py": "", "data/a": "a", "data/b": "b"}))
    await push_code(node, before, JOB)
    elsewhere = work.parent / "scratch"
    (job / "code/data").rename(elsewhere)
    (job / "code/data").symlink_to(elsewhere)
    now = other(work, {"t.py": "mended"}, "data/b")
    await push_code(node, now, JOB, before=[before])
    assert (job / "code/t.py").read_text() == "mended"
    assert contents(elsewhere) == {"a": b"a", "b": b"b"} and (job / "code/data").is_symlink()


async def test_a_file_that_the_job_wrote_like_the_new_code_is_no_conflict(
    work: Path, job: Path, node: LocalTransport
) -> None:
    before = snapshot(plant(work, {"t.py": "raise"}))
    await push_code(node, before, JOB)
    plant(job / "code", {"t.py": "mended on the node", "results.csv": "1"})
    now = other(work, {"t.py": "mended on the node", "results.csv": "1"})
    assert await conflicts(node, now, JOB, [before]) == []
    await push_code(node, now, JOB, before=[before])
    assert contents(job / "code") == contents(now)


async def test_code_that_no_snapshot_knows_is_not_replaced(work: Path, job: Path, node: LocalTransport) -> None:
    before = snapshot(plant(work, {"t.py": "raise"}))
    await push_code(node, before, JOB)
    now = other(work, {"t.py": "mended"})
    assert await conflicts(node, now, JOB, []) == [], "it may be another master's; the push judges"
    for known in ([], [work.parent / "gone"]):
        with pytest.raises(NodeRefused, match="holds other code"):
            await push_code(node, now, JOB, before=known)
    assert (job / "code/t.py").read_text() == "raise"


async def test_a_node_that_missed_versions_gets_the_last(work: Path, job: Path, node: LocalTransport) -> None:
    first = snapshot(plant(work, {"t.py": "1", "first.py": ""}))
    await push_code(node, first, JOB)
    second = other(work, {"t.py": "2", "second.py": ""}, "first.py")
    third = other(work, {"t.py": "3"}, "second.py", name="third")
    await push_code(node, third, JOB, before=[second, first])
    assert contents(job / "code") == {"t.py": b"3"}
    await push_code(node, first, JOB, before=[third, second]), "and back"
    assert contents(job / "code") == contents(first)


async def test_bytecode_of_a_source_of_the_same_size_and_second_is_not_taken_for_it(
    work: Path, job: Path, node: LocalTransport
) -> None:
    plant(work, {"rate.py": "LR = 0.1\n"})
    os.utime(work / "rate.py", (1e9, 1e9))
    before = snapshot(work)
    await push_code(node, before, JOB)

    async def rate() -> str:
        asking = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import rate; print(rate.LR)", cwd=job / "code", stdout=asyncio.subprocess.PIPE,
            env={key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
        )  # fmt: skip
        return (await asking.communicate())[0].decode().strip()

    assert await rate() == "0.1" and list(job.glob("code/__pycache__/rate.*.pyc"))
    plant(work, {"rate.py": "LR = 0.2\n"})
    os.utime(work / "rate.py", (1e9, 1e9))
    await push_code(node, snapshot(work, "new"), JOB, before=[before])
    assert await rate() == "0.2"


async def test_pushes_at_the_same_time_replace_it_once(work: Path, job: Path, node: LocalTransport) -> None:
    before = snapshot(plant(work, {f"pkg/{n}.py": "old" for n in range(50)} | {"old.py": ""}))
    await push_code(node, before, JOB)
    plant(job / "code", {"ckpt/a.pt": "weights"})
    now = other(work, {f"pkg/{n}.py": "new" for n in range(50)}, "old.py")
    await asyncio.gather(*(push_code(node, now, JOB, before=[before]) for _ in range(4)))
    assert contents(job / "code") == contents(now) | {"ckpt/a.pt": b"weights"}
    assert sorted(os.listdir(job)) == ["code", "code.json", "code.sha256"]


# Cut short


class Killed(BaseException):
    """As by kill -9: nothing of the program's own tidying is run after it."""


def dying(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Make the Nth change of the disk the last one. Returns what is done, in order."""
    done: list[str] = []

    def around(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if len(done) == step:
                raise Killed
            done.append(name)
            return act(*args, **options)

        return call

    for name in ("rename", "replace", "unlink", "rmdir", "makedirs"):
        monkeypatch.setattr(replace_code.os, name, around(name, getattr(os, name)))
    monkeypatch.setattr(replace_code, "write", around("write", replace_code.write))
    monkeypatch.setattr(replace_code.shutil, "rmtree", around("rmtree", replace_code.shutil.rmtree))
    return done


@pytest.mark.long
async def test_a_replacement_that_is_cut_short_anywhere_is_carried_on(
    work: Path, home: Path, node: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(work, {"t.py": "raise", "old.py": "", "conf/a": "1", "util": "file", "pkg/m.py": ""})
    before = snapshot(work)
    for path in ("old.py", "conf/a", "util"):
        (work / path).unlink()
    (work / "conf").rmdir()
    now = snapshot(plant(work, {"t.py": "mended", "conf": "file", "util/x.py": "new", "pkg/n.py": "new"}), "new")
    lists = encoded(read_manifest(now)) + b"\n" + encoded(read_manifest(before))
    digest = digest_of(read_manifest(now))
    wrote = {"ckpt/checkpoint-70.pt": b"weights", "pkg/out.csv": b"1"}
    await push_code(node, before, "~/pushed")
    for step in range(200):
        number = f"~/jobs/job-{step:03d}"
        job = home / f"jobs/job-{step:03d}"
        shutil.copytree(home / "pushed", job)
        plant(job / "code", {name: text.decode() for name, text in wrote.items()})
        plant(job / "code", {"pkg/__pycache__/m.cpython-311.pyc": "", "__pycache__/old.cpython-311.pyc": ""})
        # As receive_code.py leaves it.
        plant(job / "code.tmp-0123", {f"code/{name}": text for name, text in contents(now).items()})
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdin", Mock(buffer=io.BytesIO(lists)))
            patched.setattr("builtins.print", Mock())
            done = dying(patched, step)
            try:
                replace_code.main("replace", number, "0123", digest)
                whole = True
            except Killed:
                whole = False
        at = f"cut at step {step}: {done[-3:]}"
        marked = (job / "code.sha256").read_text().strip()
        if marked == digest:
            assert contents(job / "code") == contents(now) | wrote, f"{at}: what is marked is whole"
        else:
            assert marked == digest_of(read_manifest(before))
            begun = any(path.name.startswith("code.next-") for path in job.iterdir())
            untouched = contents(before).items() <= contents(job / "code").items()
            assert begun or untouched, f"{at}: nothing is touched before all of it is there"
        await push_code(node, now, number, before=[before])
        assert contents(job / "code") == contents(now) | wrote, at
        assert sorted(os.listdir(job)) == ["code", "code.json", "code.sha256"], at
        if whole:
            assert done.count("rename") > 5, "of all that there is to do"
            return
    raise AssertionError("it never came to its end")


async def test_finishes_an_interrupted_push_before_newer_code_comes(
    work: Path, job: Path, node: LocalTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = snapshot(plant(work, {"t.py": "1", "first.py": ""}))
    await push_code(node, first, JOB)
    second = other(work, {"t.py": "2", "second.py": ""}, "first.py", name="second")
    plant(job / "code.tmp-0123", {f"code/{name}": text for name, text in contents(second).items()})
    lists = encoded(read_manifest(second)) + b"\n" + encoded(read_manifest(first))
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(sys, "stdin", Mock(buffer=io.BytesIO(lists)))
        dying(patched, 6)
        replace_code.main("replace", JOB, "0123", digest_of(read_manifest(second)))
    assert any(path.name.startswith("code.next-") for path in job.iterdir())
    third = other(work, {"t.py": "3"}, "second.py", name="third")
    await push_code(node, third, JOB, before=[second, first])
    assert contents(job / "code") == {"t.py": b"3"}
    assert sorted(os.listdir(job)) == ["code", "code.json", "code.sha256"]
