"""The snapshot of a working directory: which files belong to it, and a copy that no later edit changes."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from ugro.common.errors import InputError, StateError
from ugro.common.files import FULL, FULL_HINT
from ugro.common.locations import ugro_home
from ugro.common.models.code_version import CodeVersion
from ugro.nodes.code_sync.frozen import freeze
from ugro.nodes.code_sync.ignore import IGNORE_FILE, IgnoreFiles, literal, read_lines
from ugro.nodes.code_sync.manifest import digest_of, list_beside, walk

LARGE_BYTES = 200 * 1024 * 1024
"""The user is asked before a larger selection is sent: it probably contains data or checkpoints."""

BYTECODE = ("__pycache__/", "*.pyc")
BULK = (".venv/", "venv/", "node_modules/", "wandb/", "checkpoints/", *BYTECODE)
"""Not sent unless git tracks it, a `.ugroignore` brings it back (`!checkpoints/`), or the folder is a Python package:
its name alone does not make it data.
"""

SECRETS = (".env*", "*.pem", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*")
"""Never sent, tracked by git or not, unless a `.ugroignore` says otherwise (`!.env.example`)."""

STATE = (".ugro/",)

COUNTED = 10_000
"""Files of a folder that is left out which are counted, with their sizes; a larger one is only said to be larger."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_POINTER_BYTES = 1024


@dataclass(frozen=True)
class Bulk:
    """How much of something is left out: files and bytes, or `more` than these."""

    files: int = 0
    bytes: int = 0
    more: bool = False


@dataclass(frozen=True)
class Copy:
    """Where the files of a working directory lie that another process sent, and the state in git that it saw."""

    at: Path
    git_commit: str | None
    git_dirty: bool | None


@dataclass(frozen=True)
class CodeSelection:
    """What of a working directory is sent.

    `files` maps relative paths (files and symlinks; empty folders are not kept) to bytes. `refused` maps what cannot
    be sent to the reason. `left_out` has what the built-in list alone keeps here, folders with a slash at the end.
    `pointers` are files whose content git-lfs has not brought: what is sent of them only names it. `copy`: the files
    are read there, and not in the directory itself.
    """

    files: Mapping[str, int]
    refused: Mapping[str, str]
    left_out: Mapping[str, Bulk] = field(default_factory=dict)
    pointers: tuple[str, ...] = ()
    copy: Copy | None = None

    @property
    def size_bytes(self) -> int:
        """The bytes of all files together."""
        return sum(self.files.values())

    def largest(self, n: int = 5) -> list[tuple[str, int]]:
        """The n largest files with their bytes, the largest first."""
        return sorted(self.files.items(), key=lambda item: -item[1])[:n]


def select_files(directory: Path) -> CodeSelection:
    """Choose what is sent of a working directory.

    In a git work tree that is what git tracks or would offer to add, submodules included; elsewhere everything that no
    `.gitignore` leaves out. `.ugroignore` files (the same syntax, also in subfolders) leave out more, and their `!`
    lines bring back what UGRO's own lists take away, but nothing that git ignores. What git tracks is sent whatever
    folder it is in, but for SECRETS. `.git` is never sent, nor is UGRO's state directory.

    Raises:
        InputError: the directory or an ignore file in it cannot be read.
    """
    root = directory.resolve()
    if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"{directory} is not a directory that can be read")
    choice = _Choice(root)
    listed = _git_files(root)
    if listed is None:
        git = IgnoreFiles(root, ".gitignore", read_lines(root / ".git" / "info" / "exclude"))
        paths = list(walk(root, lambda path, folder: git.leaves_out(path, folder) or choice.leaves_out(path, folder)))
    else:
        paths = [path for path, tracked in listed.items() if choice.takes(path, tracked)]
        paths += _special_files(root, choice)
    files: dict[str, int] = {}
    refused: dict[str, str] = {}
    for path in sorted(paths):
        _examine(root, path, files, refused)
    return CodeSelection(files, refused, dict(sorted(choice.left_out.items())), _lfs_pointers(root, files))


class _Choice:
    """Decides by the built-in lists and `.ugroignore`, and notes what only the built-in ones leave out."""

    def __init__(self, root: Path) -> None:
        self.left_out: dict[str, Bulk] = {}
        self._root = root
        self._untold = IgnoreFiles(root, IGNORE_FILE, [*BYTECODE, *STATE, *_state_directory(root)])
        self._never = IgnoreFiles(root, IGNORE_FILE, [*SECRETS, *STATE, *_state_directory(root)])
        self._bulk = IgnoreFiles(root, IGNORE_FILE, BULK)
        self._judged: dict[str, bool] = {"": False}

    def takes(self, path: str, tracked: bool) -> bool:
        """Whether a file that git lists is sent."""
        if tracked and not self._never.leaves_out(path):
            return True
        folders = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        at = next((folder for folder in folders if self.refuses(folder)), None) if not tracked else None
        if at is None and not tracked and not self._refuses_one(path, folder=False):
            return True
        self._note(path if at is None else at, at is not None, [_size(self._root / path)])
        return False

    def leaves_out(self, path: str, folder: bool) -> bool:
        """Whether a path is not sent, where no git says what is there."""
        if not (self.refuses(path) if folder else self._refuses_one(path, folder)):
            return False
        self._note(path, folder, _sizes_below(self._root / path) if folder else [_size(self._root / path)])
        return True

    def refuses(self, folder: str) -> bool:
        """Whether the lists leave out a folder."""
        if folder not in self._judged:
            self._judged[folder] = self._refuses_one(folder, folder=True)
        return self._judged[folder]

    def _refuses_one(self, path: str, folder: bool) -> bool:
        if self._never.leaves_out(path, folder):
            return True
        if not self._bulk.leaves_out(path, folder):
            return False
        if folder and not path.endswith("__pycache__") and (self._root / path / "__init__.py").is_file():
            self._bulk.admit(path)
            return False
        return True

    def _note(self, path: str, folder: bool, sizes: Iterable[int]) -> None:
        if self._untold.leaves_out(path, folder):  # the user's own rules need no report
            return
        name = f"{path}/" if folder else path
        known = self.left_out.get(name, Bulk())
        for size in sizes:
            if known.files >= COUNTED:
                known = replace(known, more=True)
                break
            known = Bulk(known.files + 1, known.bytes + size)
        self.left_out[name] = known


def _sizes_below(folder: Path) -> Iterator[int]:
    """The sizes of the files in a folder, as they are found: there may be any number."""
    folders = [str(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield _size(Path(entry.path))


def _special_files(root: Path, choice: _Choice) -> Iterator[str]:
    """Sockets, pipes and devices, which git does not list: those among the first COUNTED entries from the top."""
    with contextlib.suppress(InputError):  # of an ignore file that git cannot read either
        git = IgnoreFiles(root, ".gitignore", read_lines(root / ".git" / "info" / "exclude"))
        folders, left = deque([""]), COUNTED
        while folders and left:
            for entry in (found := _entries(root / folders[0], left)):
                path = folders[0] + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != ".git" and not git.leaves_out(path, folder=True) and not choice.refuses(path):
                        folders.append(f"{path}/")
                elif not (entry.is_symlink() or entry.is_file() or git.leaves_out(path)):
                    yield path
            left -= len(found)
            folders.popleft()


def _entries(folder: Path, limit: int) -> list[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(islice(entries, limit))
    return []


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _lfs_pointers(root: Path, files: Mapping[str, int]) -> tuple[str, ...]:
    """The files that are pointers of git-lfs, where a `.gitattributes` says that there may be some."""
    attributes = (path for path in files if path.rpartition("/")[2] == ".gitattributes")
    if not any(b"filter=lfs" in _beginning(root / path, 2**16) for path in attributes):
        return ()
    small = (path for path, size in files.items() if 0 < size <= LFS_POINTER_BYTES)
    return tuple(path for path in small if _beginning(root / path, len(LFS_POINTER)) == LFS_POINTER)


def _beginning(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def take_snapshot(
    directory: Path, selection: CodeSelection, target: Path, attempt: int = 1, before: Path | None = None
) -> CodeVersion:
    """Freeze the selected files in `target`, which appears whole or not at all. Files that are gone by now are skipped.

    Modes and modification times are kept; symlinks stay symlinks. Nothing is shared with the working directory, and
    what is the same with the snapshot `before` of it (see `frozen`). `attempt` is the first one that will run it.

    Raises:
        StateError: the copy could not be made, or `target` exists already.
    """
    root = directory.resolve()
    copy = selection.copy or Copy(root, *git_state(root))
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        entries = freeze(copy.at, selection.files, temporary, before)
        temporary.rename(target)
        list_beside(temporary).replace(list_beside(target))
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            list_beside(temporary).unlink()
        hint = FULL_HINT if error.errno in FULL else ""
        raise StateError(f"the snapshot of {directory} could not be written to {target}: {error}", hint) from None
    return CodeVersion(
        directory=str(root),
        files=len(entries),
        size_bytes=sum(entry.get("size", 0) for entry in entries),
        git_commit=copy.git_commit,
        git_dirty=copy.git_dirty,
        attempt=attempt,
        digest=digest_of(entries),
    )


def _state_directory(root: Path) -> list[str]:
    """The pattern that leaves out UGRO's state where it lies inside the working directory: it holds snapshots."""
    home = ugro_home().resolve()
    return [literal(str(home.relative_to(root)))] if root in home.parents else []


def _examine(root: Path, path: str, files: dict[str, int], refused: dict[str, str]) -> None:
    """Put a path under `files` or `refused`, or nowhere when it is gone."""
    full = root / path
    try:
        status = full.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        refused[path] = error.strerror or "cannot be read"
        return
    readable = os.access(full, os.R_OK)
    if stat.S_ISLNK(status.st_mode):
        _examine_link(root, path, files, refused)
    elif stat.S_ISDIR(status.st_mode):
        refused[path] = "a submodule or repository that git does not list" if readable else "cannot be read"
    elif not stat.S_ISREG(status.st_mode):
        refused[path] = "a socket, pipe or device"
    elif not readable:
        refused[path] = "cannot be read"
    else:
        files[path] = status.st_size


def _examine_link(root: Path, path: str, files: dict[str, int], refused: dict[str, str]) -> None:
    try:
        if _stays_inside(root, path):
            files[path] = 0
        else:
            refused[path] = f"a link that leads out of the directory, to {os.readlink(root / path)}"
    except OSError as error:  # links of /proc, say, that only their owner may read
        refused[path] = error.strerror or "cannot be read"


def _stays_inside(root: Path, path: str) -> bool:
    """Whether a link leads to the same place in a copy: relative, and neither as text nor in truth outside."""
    target = os.readlink(root / path)
    lexical = os.path.normpath(os.path.join(os.path.dirname(path), target))
    outside = os.path.isabs(target) or lexical == ".." or lexical.startswith("../")
    return not outside and Path(os.path.realpath(root / path)).is_relative_to(root)


def _git_files(root: Path) -> dict[str, bool] | None:
    """Return the files under a folder that git tracks (True) or offers to add (False); None: not under git."""
    tracked = _git(root, "ls-files", "-c", "-z")
    offered = _git(root, "ls-files", "-o", "--exclude-standard", "-z")
    # A folder that an outer repository ignores (a home directory under git, say) is nothing git would list.
    if tracked is None or offered is None or _git(root, "check-ignore", "-q", ".") is not None:
        return None
    listed: dict[str, bool] = {}
    for output, is_tracked in ((offered, False), (tracked, True)):
        for name in filter(None, os.fsdecode(output).split("\0")):
            path = name.rstrip("/")
            nested = root / path
            inner = _git_files(nested) if (nested / ".git").exists() and not nested.is_symlink() else None
            if inner is None:
                listed[path] = is_tracked
            else:
                listed |= {f"{path}/{file}": known for file, known in inner.items()}
    return listed


def git_state(root: Path) -> tuple[str | None, bool | None]:
    """HEAD, and whether anything under the folder differs from it; (None, None) outside git."""
    status = _git(root, "status", "--porcelain", "--", ".")
    if status is None or _git(root, "check-ignore", "-q", ".") is not None:
        return None, None
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    return (commit.decode().strip() if commit else None), bool(status)


def _git(root: Path, *args: str) -> bytes | None:
    """Return git's output, or None: no git, no repository, or one of another owner."""
    # Inside a git hook these would point git at another repository.
    env = {key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    command = ["git", "-C", str(root), *args]
    try:
        done = subprocess.run(
            command, env=env | {"GIT_OPTIONAL_LOCKS": "0"}, stdin=subprocess.DEVNULL, capture_output=True
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
