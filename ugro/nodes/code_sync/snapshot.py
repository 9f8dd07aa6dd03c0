"""The snapshot of a working directory: which files belong to it, and a copy that no later edit changes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ugro.common.config import ugro_home
from ugro.common.errors import InputError, StateError
from ugro.common.files import FULL, FULL_HINT
from ugro.common.models import CodeVersion
from ugro.nodes.code_sync.ignore import IgnoreFiles, literal, read_lines
from ugro.nodes.code_sync.manifest import digest_of, read_manifest, walk

LARGE_BYTES = 200 * 1024 * 1024
"""Above this a person is asked before a selection is sent: data or checkpoints probably got in."""

LEFT_OUT = (
    *(".venv/", "venv/", "node_modules/", "__pycache__/", "*.pyc", "wandb/", "checkpoints/", ".ugro/"),
    *(".env*", "*.pem", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
)
"""Never sent, tracked by git or not, unless a `.ugroignore` says otherwise (`!.env.example`)."""


@dataclass(frozen=True)
class Selection:
    """What of a working directory is sent.

    `files` maps relative paths (files and symlinks; empty folders are not kept) to bytes. `refused` maps what cannot
    be sent to the reason.
    """

    files: Mapping[str, int]
    refused: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        """The bytes of all files together."""
        return sum(self.files.values())

    def largest(self, n: int = 5) -> list[tuple[str, int]]:
        """The n largest files with their bytes, the largest first."""
        return sorted(self.files.items(), key=lambda item: -item[1])[:n]


def select_files(directory: Path) -> Selection:
    """Choose what is sent of a working directory.

    In a git work tree that is what git tracks or would offer to add, submodules included; elsewhere everything that no
    `.gitignore` leaves out. `.ugroignore` files (the same syntax, also in subfolders) leave out more, and their `!`
    lines bring back what UGRO's own list LEFT_OUT takes away, but nothing that git ignores. `.git` is never sent, nor
    is UGRO's state directory.

    Raises:
        InputError: the directory or an ignore file in it cannot be read.
    """
    root = directory.resolve()
    if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
        raise InputError(f"{directory} is not a directory that can be read")
    own = IgnoreFiles(root, ".ugroignore", [*LEFT_OUT, *_state_directory(root)])
    listed = _git_files(root)
    if listed is None:
        git = IgnoreFiles(root, ".gitignore", read_lines(root / ".git" / "info" / "exclude"))
        listed = list(walk(root, lambda path, folder: own.leaves_out(path, folder) or git.leaves_out(path, folder)))
    files: dict[str, int] = {}
    refused: dict[str, str] = {}
    for path in sorted(listed):
        if not own.leaves_out(path):
            _examine(root, path, files, refused)
    return Selection(files, refused)


def take_snapshot(directory: Path, selection: Selection, target: Path, attempt: int = 1) -> CodeVersion:
    """Copy the selected files to `target`, which appears whole or not at all. Files that are gone by now are skipped.

    Modes and modification times are kept; symlinks stay symlinks; nothing is shared with the working directory.
    `attempt` is the first one that will run it.

    Raises:
        StateError: the copy could not be made, or `target` exists already.
    """
    root = directory.resolve()
    commit, dirty = _git_state(root)
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        sizes = [size for path in selection.files if (size := _copy(root / path, temporary / path)) is not None]
        digest = digest_of(read_manifest(temporary))
        temporary.rename(target)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        hint = FULL_HINT if error.errno in FULL else ""
        raise StateError(f"the snapshot of {directory} could not be taken: {error}", hint) from None
    return CodeVersion(
        directory=str(root),
        files=len(sizes),
        size_bytes=sum(sizes),
        git_commit=commit,
        git_dirty=dirty,
        attempt=attempt,
        digest=digest,
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


def _copy(source: Path, target: Path) -> int | None:
    """Copy one file or symlink; its size in bytes, or None when it is gone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy2(source, target, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        target.unlink(missing_ok=True)
        return None
    return 0 if target.is_symlink() else target.stat().st_size


def _git_files(root: Path) -> list[str] | None:
    """What git tracks or would offer to add under a folder; None when git is not there, or not responsible."""
    output = _git(root, "ls-files", "-co", "--exclude-standard", "-z")
    # A folder that an outer repository ignores (a home directory under git, say) is nothing git would list.
    if output is None or _git(root, "check-ignore", "-q", ".") is not None:
        return None
    listed = []
    for name in filter(None, os.fsdecode(output).split("\0")):
        path = name.rstrip("/")
        nested = root / path
        if (nested / ".git").exists() and not nested.is_symlink():
            inner = _git_files(nested)
            listed += [path] if inner is None else [f"{path}/{file}" for file in inner]
        else:
            listed.append(path)
    return listed


def _git_state(root: Path) -> tuple[str | None, bool | None]:
    """HEAD, and whether anything under the folder differs from it; (None, None) outside git."""
    status = _git(root, "status", "--porcelain", "--", ".")
    if status is None or _git(root, "check-ignore", "-q", ".") is not None:
        return None, None
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    return (commit.decode().strip() if commit else None), bool(status)


def _git(root: Path, *args: str) -> bytes | None:
    """What git printed, or None: no git, no repository, or one of another owner."""
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
