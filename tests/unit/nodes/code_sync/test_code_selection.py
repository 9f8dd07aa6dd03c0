"""Selecting and freezing a job's code."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from code_folders import ODD_NAMES, plant, snapshot, tree

from ugro.common.errors import InputError, StateError
from ugro.nodes.code_sync import LARGE_BYTES, Bulk, frozen, select_files, take_snapshot
from ugro.nodes.code_sync import snapshot as snapshot_module


def git(root: Path, *args: str) -> str:
    """Run git with a user's name and address set; return its output."""
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", "-C", root, *who, *args], check=True, capture_output=True, text=True).stdout.strip()


def selected(root: Path) -> set[str]:
    """Return the selected paths except the ignore files themselves."""
    return {path for path in select_files(root).files if not path.endswith("ignore")}


# What is sent


IDIOMS = {
    ".gitignore": "*.log\n!keep.log\n/data/*\n!/data/ok/\ndocs/**/*.html\nout/\n# comment\n\\#x\ntrailing  \n\\!y\r\n",
    "train.py": "",
    "a.log": "",
    "keep.log": "",
    "data/raw.bin": "",
    "data/ok/x": "",
    "data/ok/deep/y": "",
    "docs/a/b.html": "",
    "docs/b.md": "",
    "out/never": "",
    "sub/out/never": "",
    "#x": "",
    "!y": "",
    "trailing": "",
    "sub/.gitignore": "!a.log\nsecret.txt\n/only-here\n!out/\n",
    "sub/a.log": "",
    "sub/secret.txt": "",
    "sub/only-here": "",
    "sub/deep/only-here": "",
    "sub/deep/secret.txt": "",
    "white/.gitignore": "*\n!*/\n!*.py\n!.gitignore\n",
    "white/a.py": "",
    "white/b.txt": "",
    "white/deep/c.py": "",
    "white/deep/d.txt": "",
    "all/.gitignore": "**\n",
    "all/x": "",
    "star/.gitignore": "foo/**\n!foo/keep\n",
    "star/foo/keep": "",
    "star/foo/lose": "",
    "star/foo/deep/keep": "",
}


def test_ignore_files_are_read_as_git_reads_them(work: Path) -> None:
    plant(work, IDIOMS)
    without_git = selected(work)
    assert without_git == {
        *("train.py", "keep.log", "data/ok/x", "data/ok/deep/y", "docs/b.md", "sub/a.log", "sub/deep/only-here"),
        *("sub/out/never", "white/a.py", "white/deep/c.py", "star/foo/keep"),
    }
    git(work, "init")
    assert selected(work) == without_git


def test_git_decides_in_its_work_tree(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, {".gitignore": "*.bin\n", "gone.py": "", "kept.py": "", "forced.bin": "", "private": "", "e.swp": ""})
    (tmp_path / "excludes").write_text("*.swp\n")
    git(work, "init")
    git(work, "config", "core.excludesFile", str(tmp_path / "excludes"))
    (work / ".git/info/exclude").write_text("private\n")
    git(work, "add", "gone.py", "kept.py")
    git(work, "add", "--force", "forced.bin")
    (work / "gone.py").unlink()
    plant(work, {"untracked.py": "", "other.bin": ""})
    assert selected(work) == {"kept.py", "untracked.py", "forced.bin"}
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert selected(work) == {"kept.py", "untracked.py", "e.swp"}, "without git, its own settings are unknown"


def test_a_subfolder_of_a_repository(work: Path) -> None:
    plant(work, {".gitignore": "*.bin\nignored/\n", "sub/a.py": "", "sub/b.bin": "", "top.py": "", "ignored/c.py": ""})
    git(work, "init")
    assert selected(work / "sub") == {"a.py"}
    assert selected(work / "ignored") == {"c.py"}, "the outer repository has nothing to say of a folder it ignores"


def test_submodules_and_nested_repositories_are_sent(work: Path, tmp_path: Path) -> None:
    library = plant(tmp_path / "library", {"lib.py": "", ".gitignore": "*.o\n"})
    git(library, "init")
    git(library, "add", ".")
    git(library, "commit", "-m", "x")
    plant(work, {"main.py": "", "nested/n.py": ""})
    git(work, "init")
    git(work, "-c", "protocol.file.allow=always", "submodule", "add", str(library), "third/library")
    git(work / "nested", "init")
    plant(work, {"third/library/built.o": ""})
    assert selected(work) == {".gitmodules", "main.py", "nested/n.py", "third/library/lib.py"}
    git(work, "submodule", "deinit", "-f", "third/library")
    assert "third/library" in select_files(work).refused


SECRETS = (
    *(".env", ".env.local", "keys/id_rsa", "id_ed25519.pub", "cert.pem", "wandb/run/x", "checkpoints/step-1.pt"),
    *(".venv/bin/python", "venv/x", "node_modules/x/y.js", "pkg/__pycache__/m.pyc", "m.pyc", ".ugro/jobs/x"),
    *("we\nird/.env", "sub/checkpoints/x"),
)


@pytest.mark.parametrize("in_git", [True, False])
def test_secrets_and_bulk_stay_here(work: Path, in_git: bool) -> None:
    plant(work, {name: "" for name in (*SECRETS, "main.py", "environment.py", "pkg/venv.py")})
    if in_git:
        git(work, "init")
    assert selected(work) == {"main.py", "environment.py", "pkg/venv.py"}
    plant(work, {".ugroignore": "!.env.local\n/main.py\n", "sub/.ugroignore": "!checkpoints/\n"})
    assert selected(work) == {".env.local", "environment.py", "pkg/venv.py", "sub/checkpoints/x"}


TRACKED = (
    *("mylib/checkpoints/__init__.py", "mylib/wandb/x.py", "build/b.py", "dist/d.py", "data/d.py", "logs/l.py"),
    *("venv/v.py", "node_modules/n.js", "checkpoints/config.json"),
)


def test_sends_tracked_files_whatever_their_folder_is_called(work: Path) -> None:
    plant(work, {name: "x" for name in (*TRACKED, ".env", "key.pem", ".ugro/token", "main.py")})
    plant(work, {".gitignore": "data/\n*.pt\n"})
    git(work, "init")
    git(work, "add", "--force", ".")
    plant(work, {"checkpoints/step-1.pt": "big", "checkpoints/step-2.txt": "12", "venv/lib/other.py": "123"})
    assert selected(work) == {*TRACKED, "main.py"}, "but for secrets and the state, and what git ignores"
    left_out = select_files(work).left_out
    assert {path: (bulk.files, bulk.bytes) for path, bulk in left_out.items()} == {
        ".env": (1, 1), "key.pem": (1, 1), "checkpoints/": (1, 2), "venv/": (1, 3),
    }  # fmt: skip
    plant(work, {".ugroignore": "mylib/checkpoints/\n*.pem\n/venv\n"})
    gone = {"mylib/checkpoints/__init__.py", "venv/v.py"}
    assert selected(work) == {*TRACKED, "main.py"} - gone, "a person said so"
    assert set(select_files(work).left_out) == {".env", "checkpoints/"}, "which is no news to them"


@pytest.mark.parametrize("in_git", [True, False])
def test_a_package_is_code_whatever_it_is_called(work: Path, in_git: bool) -> None:
    """Where git does not track it (yet), an `__init__.py` makes a folder one."""
    plant(work, {"mylib/checkpoints/__init__.py": "", "mylib/checkpoints/deep/a.py": "", "mylib/wandb/run-1/log": ""})
    plant(work, {"mylib/checkpoints/__pycache__/a.pyc": "", "mylib/checkpoints/.env": "", "main.py": ""})
    if in_git:
        git(work, "init")
    assert selected(work) == {"mylib/checkpoints/__init__.py", "mylib/checkpoints/deep/a.py", "main.py"}
    assert set(select_files(work).left_out) == {"mylib/wandb/", "mylib/checkpoints/.env"}


def test_counts_excluded_files_up_to_a_bound(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "COUNTED", 3)
    plant(work, {f"wandb/{number}": "12" for number in range(9)} | {"main.py": ""})
    assert select_files(work).left_out == {"wandb/": Bulk(3, 6, more=True)}


def test_pointers_of_git_lfs_are_named(work: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    plant(work, {"model.bin": pointer, "brought.bin": "x" * 2000, "small.bin": "x", "main.py": ""})
    assert select_files(work).pointers == ()
    plant(work, {"data/.gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n"})
    assert select_files(work).pointers == ("model.bin",)


def test_ugroignore_brings_back_nothing_that_git_ignores(work: Path) -> None:
    plant(work, {".gitignore": "*.bin\n", ".ugroignore": "!a.bin\n!.git\n", "a.bin": "", "b": ""})
    assert selected(work) == {"b"}
    git(work, "init")
    assert selected(work) == {"b"}


def test_the_state_directory_is_not_part_of_the_code(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, {"a.py": "", "my [state]/jobs/job-001/snapshot/a.py": ""})
    monkeypatch.setenv("UGRO_HOME", str(work / "my [state]"))
    assert selected(work) == {"a.py"}


def test_names_files_that_cannot_be_sent(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, {"a.py": "", "sub/b.py": "", "locked": ""})
    links = {"in": "sub/b.py", "sub/up": "../a.py", "dangling": "not-yet", "folder": "sub", "out": "../secret"}
    links |= {"absolute": str(work / "a.py"), "there-and-back": "../work/a.py", "via": "folder/../../secret"}
    for name, target in links.items():
        (work / name).symlink_to(target)
    os.mkfifo(work / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(work / "socket"))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    selection = select_files(work)
    assert set(selection.files) == {"a.py", "sub/b.py", "in", "sub/up", "dangling", "folder"}
    assert set(selection.refused) == {"out", "absolute", "there-and-back", "via", "pipe", "socket", "locked"}
    assert "leads out" in selection.refused["out"] and "cannot be read" in selection.refused["locked"]
    git(work, "init")
    listed = select_files(work)
    assert listed.files == selection.files and listed.refused == selection.refused


def test_names_pipes_and_sockets_in_a_git_work_tree(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(
        work, {"a.py": "", ".gitignore": "data/\n*.ipc\n", "data/x": "", "checkpoints/x": "", "sub/.gitignore": "q\n"}
    )
    git(work, "init")
    for name in ("pipe", "a.ipc", "data/pipe", "checkpoints/pipe", "sub/q", "sub/pipe", ".git/pipe"):
        os.mkfifo(work / name)
    assert select_files(work).refused == dict.fromkeys(["pipe", "sub/pipe"], "a socket, pipe or device")
    monkeypatch.setattr(snapshot_module, "COUNTED", 8)  # those of the folder itself, and of none below it
    assert select_files(work).refused == {"pipe": "a socket, pipe or device"}


def test_sizes(work: Path) -> None:
    plant(work, {"small": "x", "large": "x" * 3000, "medium": "x" * 20})
    selection = select_files(work)
    assert selection.size_bytes == 3021 < LARGE_BYTES
    assert selection.largest(2) == [("large", 3000), ("medium", 20)]


def test_no_directory(work: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        select_files(work / "nowhere")


def test_reports_a_link_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.py").touch()
    (tmp_path / "link").symlink_to("t.py")

    def forbidden(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.readlink", forbidden)
    selection = select_files(tmp_path)
    assert list(selection.files) == ["t.py"] and selection.refused == {"link": "Permission denied"}


# Freezing it


def test_a_snapshot_is_the_code_as_it_was(work: Path) -> None:
    plant(work, {"run.sh": "v1", "pkg/a.py": "v1"})
    (work / "run.sh").chmod(0o750)
    (work / "pkg/link").symlink_to("a.py")
    for name in ODD_NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(work), name))).write_bytes(name)
    before = tree(work)
    target = snapshot(work)
    with (work / "run.sh").open("r+") as file:
        file.write("v2")
    (work / "pkg/a.py").write_text("v2")
    assert tree(target) == before
    assert sorted(os.listdir(work.parent)) == ["snapshot", "snapshot.json", "work"]


def test_a_snapshot_knows_its_commit(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, {"a.py": "1", "b.py": "22"})
    outside = take_snapshot(work, select_files(work), work.parent / "outside")
    assert (outside.git_commit, outside.git_dirty, outside.files, outside.size_bytes) == (None, None, 2, 3)
    git(work, "init")
    unborn = take_snapshot(work, select_files(work), work.parent / "unborn")
    assert (unborn.git_commit, unborn.git_dirty) == (None, True)
    git(work, "add", ".")
    git(work, "commit", "-m", "x")
    clean = take_snapshot(work, select_files(work), work.parent / "clean")
    assert (clean.git_commit, clean.git_dirty) == (git(work, "rev-parse", "HEAD"), False)
    (work / "a.py").write_text("2")
    assert take_snapshot(work, select_files(work), work.parent / "dirty").git_dirty is True
    monkeypatch.setenv("PATH", "/nowhere")
    assert take_snapshot(work, select_files(work), work.parent / "no-git").git_commit is None


def test_files_that_vanish_are_skipped(work: Path) -> None:
    plant(work, {"a.py": "1", "b.py": "22", "c/d.py": "333"})
    selection = select_files(work)
    (work / "b.py").unlink()
    shutil.rmtree(work / "c")
    version = take_snapshot(work, selection, work.parent / "snapshot")
    assert (version.files, version.size_bytes) == (1, 1)
    assert set(tree(work.parent / "snapshot")) == {"a.py"}


def test_a_snapshot_is_whole_or_absent(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(work, {"a.py": "1"})
    plant(work.parent / "snapshot.tmp", {"left-by-a-killed-one": ""})
    target = snapshot(work)
    assert set(tree(target)) == {"a.py"}
    with pytest.raises(StateError, match="could not be written to"):
        snapshot(work)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen, "_copy", full)
    with pytest.raises(StateError, match="No space left"):
        snapshot(work, "second")
    assert sorted(os.listdir(work.parent)) == ["snapshot", "snapshot.json", "work"]
