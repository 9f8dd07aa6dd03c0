"""Files come from a node whole and checked, or not at all: the real scripts, on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from ugro.common.config import NodeConfig
from ugro.common.errors import NodeError, NodeRefused, StateError
from ugro.nodes.remote.files.fetch import Fetch, Wanted, fetch, part_of, sums
from ugro.nodes.remote.files.listing import find_files, list_folder
from ugro.nodes.transport import LocalTransport, Outcome, Transport

BYTES = bytes(range(256)) * 4096


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Transport]:
    transport = LocalTransport(NodeConfig(name="a", address="127.0.0.1", local=True, python="/usr/bin/python3"))
    yield transport
    await transport.close()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """The folder in which a script ran, and what it left."""
    folder = tmp_path / "base/jobs/job-001/code"
    (folder / "out/deep").mkdir(parents=True)
    (folder / "out/model.bin").write_bytes(BYTES)
    (folder / "out/deep/run.sh").write_text("#!/bin/sh\n")
    (folder / "out/deep/run.sh").chmod(0o755)
    (folder / "out/empty").touch()
    (folder / "out/new\nline\x1b[31m").write_text("x")
    (folder / "out/passwd").symlink_to("/etc/passwd")
    (folder / "etc").symlink_to("/etc")
    os.mkfifo(folder / "out/fifo")
    (tmp_path / "base/storage-id").write_text("12-34\n")
    return folder


async def fetched(node: Transport, code: Path, to: Path, *names: str, sizes: Sequence[int] = ()) -> Fetch:
    there = sizes or [(code / name).stat().st_size if (code / name).exists() else 0 for name in names]
    wanted = [Wanted(name, size, to / name) for name, size in zip(names, there, strict=True)]
    return await fetch(node, str(code), wanted)


async def test_finds_the_files_that_globs_name(node: Transport, code: Path) -> None:
    base = str(code.parents[2])
    found = await find_files(node, str(code), base, ["out/**", "*.py"])
    assert (found.exists, found.storage, found.more, found.odd) == (True, "12-34", False, 0)
    assert {one.path: one.kind for one in found.entries} == {
        "out/deep/run.sh": "file",
        "out/empty": "file",
        "out/model.bin": "file",
        "out/new\nline\x1b[31m": "file",
        "out/fifo": "other",
        "out/passwd": "link",
    }
    assert [one.path for one in (await find_files(node, str(code), base, ["out/*.bin"])).entries] == ["out/model.bin"]
    assert (await find_files(node, str(code), base, ["etc/passwd", "etc/**"])).entries == ()
    assert not (await find_files(node, f"{code}x", base, ["*"])).exists


async def test_lists_folders_as_deep_as_is_asked_and_follows_no_link(node: Transport, code: Path) -> None:
    base = str(code.parents[2])
    assert [one.path for one in (await list_folder(node, str(code), base, "", 1)).entries] == ["etc", "out"]
    below = await list_folder(node, str(code), base, "out", 2)
    assert "out/deep/run.sh" in [one.path for one in below.entries]
    linked = await list_folder(node, str(code), base, "etc/ssh", 1)
    assert (linked.exists, linked.found, linked.entries) == (True, (), ())
    (code / os.fsdecode(b"out/\xff")).touch()
    assert (await list_folder(node, str(code), base, "out", 1)).odd == 1
    code.rename(code.with_name("real"))
    code.symlink_to("real")
    with pytest.raises(NodeRefused, match=r"Not a directory|Too many levels"):
        await list_folder(node, str(code), base, "", 1)


async def test_brings_files_with_their_times_and_the_right_to_run_them(
    node: Transport, code: Path, tmp_path: Path
) -> None:
    names = ("out/model.bin", "out/deep/run.sh", "out/empty", "out/new\nline\x1b[31m")
    came = await fetched(node, code, tmp_path / "to", *names)
    assert [one.wanted.path for one in came.done] == [*names] and not came.problems and came.error is None
    model = tmp_path / "to/out/model.bin"
    assert model.read_bytes() == BYTES and came.done[0].sha256 == hashlib.sha256(BYTES).hexdigest()
    assert model.stat().st_mtime_ns == (code / "out/model.bin").stat().st_mtime_ns
    assert (tmp_path / "to/out/deep/run.sh").stat().st_mode & stat.S_IXUSR and not model.stat().st_mode & 0o111
    again = await fetched(node, code, tmp_path / "to", *names)
    assert {(one.how, one.received) for one in again.done} == {("same", 0)}


async def test_continues_a_part_and_begins_again_where_it_is_of_another_file(
    node: Transport, code: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out/model.bin"
    for part, received in ((BYTES[:300_000], len(BYTES) - 300_000), (b"other" * 1000, len(BYTES)), (BYTES, 0)):
        target.unlink(missing_ok=True)
        target.parent.mkdir(exist_ok=True)
        part_of(target).write_bytes(part)
        [one] = (await fetched(node, code, tmp_path, "out/model.bin")).done
        assert (one.received, one.how, target.read_bytes()) == (received, "copied", BYTES)
        assert not part_of(target).exists()


async def test_replaces_what_differs_and_adds_what_a_file_grew_by(node: Transport, code: Path, tmp_path: Path) -> None:
    theirs, ours = code / "out/model.bin", tmp_path / "out/model.bin"
    await fetched(node, code, tmp_path, "out/model.bin")
    with theirs.open("ab") as file:
        file.write(b"more")
    [one] = (await fetched(node, code, tmp_path, "out/model.bin")).done
    assert one.received == 4 and ours.read_bytes() == theirs.read_bytes()
    theirs.write_bytes(b"x" * len(BYTES))
    [one] = (await fetched(node, code, tmp_path, "out/model.bin")).done
    assert one.received == len(BYTES) and ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone", "No such file or directory"),
        ("out/fifo", "it is no regular file"),
        ("out", "it is no regular file"),
        ("out/passwd", "Too many levels of symbolic links"),
        ("etc/passwd", "Not a directory"),
        ("../../uid", "the path leads out of the folder"),
        ("/etc/passwd", "the path leads out of the folder"),
    ],
)
async def test_says_why_one_file_does_not_come_and_brings_the_others(
    node: Transport, code: Path, tmp_path: Path, name: str, why: str
) -> None:
    wanted = [Wanted(name, 5, tmp_path / "to/x"), Wanted("out/empty", 0, tmp_path / "to/empty")]
    came = await fetch(node, str(code), wanted)
    assert came.problems == {name: why} and [one.wanted.path for one in came.done] == ["out/empty"]
    assert not (tmp_path / "to/x").exists()


async def test_keeps_what_came_where_the_disk_is_full_and_continues(
    node: Transport, code: Path, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        came = await fetched(node, code, tmp_path, "out/empty", "out/model.bin", "out/deep/run.sh")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [one.wanted.path for one in came.done] == ["out/empty"] and isinstance(came.error, StateError)
    assert came.error.message == f"{tmp_path}/out/model.bin cannot be written: File too large"
    assert came.error.hint.endswith("then run the same command again: it continues where it ended")
    assert part_of(tmp_path / "out/model.bin").stat().st_size == 400_000
    came = await fetched(node, code, tmp_path, "out/empty", "out/model.bin", "out/deep/run.sh")
    assert [one.received for one in came.done] == [0, len(BYTES) - 400_000, 10]
    assert (tmp_path / "out/model.bin").read_bytes() == BYTES


class Changing(LocalTransport):
    """Changes a file when its first bytes have come."""

    file: Path
    write: bytes
    mode = "r+b"

    async def run(self, script, args=(), *, on_output=None, **more) -> Outcome:  # type: ignore[no-untyped-def]
        def seen(stream: str, chunk: bytes) -> None:
            if stream == "stdout" and not self.changed:
                self.changed = True
                with self.file.open(self.mode) as file:
                    file.write(self.write)
            on_output(stream, chunk)

        self.changed = False
        return await super().run(script, args, on_output=seen if on_output else None, **more)


@pytest.mark.parametrize("rewritten", [False, True])
async def test_tells_of_a_file_that_changes_while_it_comes(code: Path, tmp_path: Path, rewritten: bool) -> None:
    whole = os.urandom(8 * 2**20)
    (code / "out/model.bin").write_bytes(whole)
    node = Changing(NodeConfig(name="a", address="127.0.0.1", local=True, python="/usr/bin/python3"))
    node.file, node.write, node.mode = code / "out/model.bin", b"new", "r+b" if rewritten else "ab"
    came = await fetched(node, code, tmp_path, "out/model.bin")
    await node.close()
    if rewritten:
        assert came.problems == {"out/model.bin": "it was rewritten while it was read; the same command tries again"}
        assert not (tmp_path / "out/model.bin").exists() and not part_of(tmp_path / "out/model.bin").exists()
    else:
        assert [one.how for one in came.done] == ["grown"] and (tmp_path / "out/model.bin").read_bytes() == whole


class Saying(LocalTransport):
    """A node that answers what it likes."""

    said = b""

    async def run(self, script, args=(), *, on_output=None, **more) -> Outcome:  # type: ignore[no-untyped-def]
        assert on_output
        for start in range(0, len(self.said), 7):
            on_output("stdout", self.said[start : start + 7])
        return Outcome(0)


HEAD = b'{"size": 3, "from": 0, "bytes": 3, "mode": 420, "mtime": 0}\n'
TAIL = b'{"sha256": "%s", "changed": null}\n' % hashlib.sha256(b"abc").hexdigest().encode()


@pytest.mark.parametrize(
    "said",
    [
        *(b"", b"\n", b"{}\n", b"x" * 100_000, HEAD, HEAD + b"abc", HEAD + b"abc" + TAIL, HEAD + b"abcd" + TAIL),
        HEAD.replace(b'"from": 0', b'"from": 2'),
        HEAD.replace(b'"size": 3', b'"size": -1'),
        HEAD.replace(b"420", b"4095"),
        HEAD + b"abc" + TAIL + b'{"end": false}\n',
    ],
)
async def test_takes_no_nonsense_for_a_file(said: bytes, tmp_path: Path) -> None:
    node = Saying(NodeConfig(name="a", address="127.0.0.1", local=True))
    node.said = said
    came = await fetch(node, "x", [Wanted("x", 3, tmp_path / "x")])
    assert isinstance(came.error, NodeError) and "was received incomplete" in came.error.message


async def test_compares_the_sum_of_what_came(tmp_path: Path) -> None:
    node = Saying(NodeConfig(name="a", address="127.0.0.1", local=True))
    node.said = HEAD + b"abd" + TAIL + b'{"end": true}\n'
    came = await fetch(node, "x", [Wanted("x", 3, tmp_path / "x")])
    assert "another SHA-256 sum" in came.problems["x"] and [*tmp_path.iterdir()] == []
    node.said = HEAD + b"abc" + TAIL + b'{"end": true}\n'
    assert (await fetch(node, "x", [Wanted("x", 3, tmp_path / "x")])).done and (tmp_path / "x").read_bytes() == b"abc"


async def test_gives_sums_without_bytes(node: Transport, code: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(code):
        bound.bind("socket")
    found = await sums(node, str(code), {"out/model.bin": len(BYTES), "socket": 0, "gone": 0})
    assert found == {"out/model.bin": hashlib.sha256(BYTES).hexdigest()}
