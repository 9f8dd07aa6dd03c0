"""Snapshots of one folder share what did not change, and each of them stays what it was."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.code_folders import ODD_NAMES, plant, tree
from ugro.common.errors import StateError
from ugro.common.models.code_version import CodeVersion
from ugro.nodes.code_sync import freed_bytes, frozen, list_beside, manifest, read_manifest, select_files, take_snapshot
from ugro.nodes.code_sync.manifest import digest_of

LONG_AGO = 1_600_000_000


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(frozen, "RACY_SECONDS", -1.0)  # the files of a test were written just now
    return plant(tmp_path / "work", {"train.py": "print(1)", "pkg/a.py": "a", "pkg/deep/b.py": "bb"})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read while a snapshot is taken, as often as they are."""
    names: list[str] = []

    def hash_of(file: io.BufferedReader) -> str:
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{file.fileno()}")))
        return manifest.hash_of(file)

    def copy(file: io.BufferedReader, target: Path, name: str, real: Callable[..., Any] = frozen._copy) -> Any:
        names.append(os.path.basename(name))
        return real(file, target, name)

    monkeypatch.setattr(frozen, "hash_of", hash_of)
    monkeypatch.setattr(frozen, "_copy", copy)
    return names


def take(work: Path, name: str, before: str | None = None) -> tuple[Path, CodeVersion]:
    target = work.parent / name
    version = take_snapshot(work, select_files(work), target, 1, work.parent / before if before else None)
    return target, version


def shared(one: Path, other: Path) -> set[str]:
    """The files that two snapshots have as one."""
    return {name for name in tree(one) if (other / name).exists() and (one / name).samefile(other / name)}


def test_shares_an_unchanged_folder_without_reading_it(work: Path, read: list[str]) -> None:
    first, version = take(work, "one")
    read.clear()
    second, same = take(work, "two", "one")
    assert read == []
    assert shared(first, second) == {"train.py", "pkg/a.py", "pkg/deep/b.py"}
    assert list_beside(first).samefile(list_beside(second))
    assert same == version and tree(second) == tree(first) == tree(work)
    assert read_manifest(second) == read_manifest(first) and digest_of(read_manifest(second)) == version.digest


def test_copies_only_what_changed(work: Path, read: list[str]) -> None:
    first, version = take(work, "one")
    before = tree(first)
    read.clear()
    plant(work, {"pkg/a.py": "other", "new.py": "n"})
    (work / "pkg/deep/b.py").chmod(0o755)
    (work / "train.py").unlink()
    second, other = take(work, "two", "one")
    assert {"a.py", "new.py", "b.py"} == {*read}
    assert shared(first, second) == set()
    assert tree(first) == before and tree(second) == tree(work) and other.digest != version.digest


def test_sees_a_change_that_keeps_size_and_time(work: Path) -> None:
    take(work, "one")
    path = work / "pkg/a.py"
    status = path.stat()
    path.write_text("z")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second, _ = take(work, "two", "one")
    assert (second / "pkg/a.py").read_text() == "z"


def test_reads_again_what_was_changed_just_before_it_was_read(
    work: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "RACY_SECONDS", 1000.0)
    first, _ = take(work, "one")
    read.clear()
    second, _ = take(work, "two", "one")
    assert sorted(read) == ["a.py", "b.py", "train.py"], "read, but not kept twice"
    assert shared(first, second) == {"train.py", "pkg/a.py", "pkg/deep/b.py"}


def test_trusts_no_list_of_another_boot(work: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = take(work, "one")
    (first / "pkg/a.py").write_bytes(b"\0")  # as a power failure leaves it: the size and the time, and zeros
    os.utime(first / "pkg/a.py", ns=(0, (work / "pkg/a.py").stat().st_mtime_ns))
    monkeypatch.setattr(frozen, "_boot_id", lambda: "another")
    second, version = take(work, "two", "one")
    assert (second / "pkg/a.py").read_text() == "a" and shared(first, second) == {"train.py", "pkg/deep/b.py"}
    assert version.digest == digest_of(read_manifest(second))


def test_shares_nothing_that_was_edited_in_the_snapshot(work: Path) -> None:
    first, _ = take(work, "one")
    (first / "pkg/a.py").write_text("edited")
    assert {entry["name"]: entry for entry in read_manifest(first)}["pkg/a.py"]["size"] == 6, "its list is not believed"
    second, _ = take(work, "two", "one")
    assert tree(second) == tree(work)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP])
def test_copies_where_there_are_no_links(work: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    first, _ = take(work, "one")
    monkeypatch.setattr(os, "link", refuse)
    second, _ = take(work, "two", "one")
    assert tree(second) == tree(work) and shared(first, second) == set()


def test_reads_snapshots_without_a_list(work: Path) -> None:
    first, version = take(work, "one")
    list_beside(first).unlink()
    assert digest_of(read_manifest(first)) == version.digest
    second, same = take(work, "two", "one")
    assert same == version and shared(first, second) == set()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"digest": 1, "entries": []}', '{"entries": [{}], "digest": ""}'])
def test_passes_over_a_broken_list(work: Path, text: str) -> None:
    first, version = take(work, "one")
    list_beside(first).write_text(text)
    assert digest_of(read_manifest(first)) == version.digest
    assert take(work, "two", "one")[1] == version


def test_keeps_names_modes_times_and_links(work: Path) -> None:
    for number, name in enumerate(ODD_NAMES):
        path = os.path.join(os.fsencode(work), name)
        with open(path, "wb") as file:
            file.write(name)
        os.chmod(path, (0o400, 0o755, 0o640)[number % 3])
        os.utime(path, (LONG_AGO, LONG_AGO + number))
    (work / "link").symlink_to("pkg/a.py")
    (work / "dangling").symlink_to("nowhere")
    take(work, "one")
    second, version = take(work, "two", "one")
    assert tree(second) == tree(work) and version.files == len(tree(work))


def test_a_file_that_changes_while_it_is_read_is_read_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = frozen._copy
    written = iter(["second", "third"])

    def copy(file: io.BufferedReader, target: Path, name: str) -> Any:
        entry = real(file, target, name)
        if name == "train.py" and (text := next(written, None)):
            (work / "train.py").write_text(text)
        return entry

    monkeypatch.setattr(frozen, "_copy", copy)
    first, version = take(work, "one")
    assert (first / "train.py").read_text() == "third" and digest_of(read_manifest(first)) == version.digest


def test_a_file_that_never_rests_is_taken_as_it_was_last(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = frozen._copy

    def copy(file: io.BufferedReader, target: Path, name: str) -> Any:
        entry = real(file, target, name)
        with (work / name).open("a") as log:
            log.write("more")
        return entry

    monkeypatch.setattr(frozen, "_copy", copy)
    first, version = take(work, "one")
    list_beside(first).unlink()
    assert digest_of(read_manifest(first)) == version.digest, "what the list says is what was copied"


def test_a_pipe_in_the_place_of_a_file_holds_nothing_up(work: Path) -> None:
    selection = select_files(work)
    (work / "train.py").unlink()
    os.mkfifo(work / "train.py")
    with pytest.raises(StateError, match="no file any more"):
        take_snapshot(work, selection, work.parent / "one")
    assert sorted(os.listdir(work.parent)) == ["work"]


def test_each_snapshot_outlives_the_other(work: Path) -> None:
    first, _ = take(work, "one")
    second, _ = take(work, "two", "one")
    shutil.rmtree(first)
    assert tree(second) == tree(work)
    third, _ = take(work, "three", "one")
    assert tree(third) == tree(work)


def test_counts_only_what_would_be_free(work: Path) -> None:
    first, version = take(work, "one")
    assert freed_bytes([first]) == version.size_bytes
    plant(work, {"pkg/a.py": "other"})
    second, _ = take(work, "two", "one")
    assert (freed_bytes([first]), freed_bytes([second])) == (1, 5)
    assert freed_bytes([first, second]) == version.size_bytes + 5
