"""Puts other code into <job_dir>/code, in the place of an earlier one of the same job. Answers with one object.

usage: replace_code.py check|replace|carry_on JOB_DIR TOKEN DIGEST

check     reads the manifest of the new code and, on a second line, that of the earlier one; says which files of the
          new code are in conflict with what the job wrote, or which code is there if it is neither. Changes nothing
replace   reads the same; puts the tree in `code.tmp-TOKEN`, which receive_code.py made, in the earlier code's place
carry_on  finishes a replacement that was cut short

The folder stays, since the job's own files and its checkpoints lie there, too: file by file, those of the earlier code
go that the new one has not, and those of the new one come. A file that the job has written or changed is never touched.
What is to be done lies beside it, whole, as `code.next-…` before the first file moves, and the next process carries
it on. Each step is a rename out of that folder or into it, so that what was done once is not done again. `code.sha256`
says the new digest only after the last one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
from typing import Any, Iterator

from ugro.nodes.remote.code.on_node.files import Refused, local, noted_digest, sha256_of
from ugro.nodes.remote.on_node.answer import answer, error_in_words, refuse

KIND = "replace_code"
NAMED = 5


class Replacement:
    """What has to be done to make one code of another, in a folder that the job has written to since.

    `put` and `remove` are names; `conflicts` are those of the new code's files in whose place something of the job is.
    A file that both codes have alike and the job has changed stays as the job left it.
    """

    def __init__(self, code: str, entries: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> None:
        self._code = code
        self._before = {entry["name"]: entry for entry in earlier}
        self._now = {entry["name"]: entry for entry in entries}
        gone = (name for name in self._before if name not in self._now)
        self.remove = [name for name in gone if self._is_untouched(name)]
        self._removed = {self._path(name) for name in self.remove}
        there = {name: self._what_is_at(name) for name in self._now}
        self.put = [name for name, what in there.items() if what in ("free", "code")]
        self.conflicts = [name for name, what in there.items() if what == "foreign"]

    def _path(self, name: str) -> str:
        return os.path.join(self._code, local(name))

    def _is_untouched(self, name: str) -> bool:
        path = self._path(name)
        return self._barrier(path) is None and is_as(path, self._before[name])

    def _what_is_at(self, name: str) -> str:
        """`free`, `code` of this or the earlier version, `kept` (the job's, to be left), or `foreign`: in the way."""
        path, before, now = self._path(name), self._before.get(name), self._now[name]
        barrier = self._barrier(path)
        if barrier in self._removed or path in self._removed or not (barrier or os.path.lexists(path)):
            return "free"
        if is_folder(path) and not barrier:
            return "free" if all(file in self._removed for file in files_below(path)) else "foreign"
        if not barrier and (is_as(path, now) or (before and is_as(path, before))):
            return "code"
        return "kept" if before and content(before) == content(now) else "foreign"

    def _barrier(self, path: str) -> str | None:
        """Return the part of a path's folders that is none: a file, or a link, since its target lies elsewhere."""
        found, folder = None, os.path.dirname(path)
        while folder != self._code:
            if os.path.lexists(folder) and not is_folder(folder):
                found = folder
            folder = os.path.dirname(folder)
        return found


def content(entry: dict[str, Any]) -> Any:
    """Return the content of a manifest's file: the target of a link, or a sum."""
    return entry.get("link"), entry.get("sha256")


def is_folder(path: str) -> bool:
    """Whether a path is a folder itself, not a link to one."""
    return os.path.isdir(path) and not os.path.islink(path)


def is_as(path: str, entry: dict[str, Any]) -> bool:
    """Whether a path holds what a manifest says."""
    if "link" in entry:
        return os.path.islink(path) and os.readlink(path) == local(entry["link"])
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry["size"]:
            return False
        return bool(sha256_of(path) == entry["sha256"])
    except OSError:
        return False


def is_bytecode(folder: str, name: str) -> bool:
    """Whether Python makes a file again by itself."""
    return os.path.basename(folder) == "__pycache__" and name.endswith(".pyc")


def files_below(folder: str) -> list[str]:
    """Everything under a folder but folders and bytecode."""
    return [
        os.path.join(place, name)
        for place, folders, files in os.walk(folder)
        for name in files + [name for name in folders if os.path.islink(os.path.join(place, name))]
        if not is_bytecode(place, name)
    ]


def planned(job_dir: str, digest: str) -> Replacement | None:
    """The change from the earlier code to the new one, by what stdin says of both; None: it is not the earlier one."""
    manifest, _, earlier = sys.stdin.buffer.read().partition(b"\n")
    if hashlib.sha256(manifest).hexdigest() != digest:
        raise Refused("the list of files arrived incomplete")
    if hashlib.sha256(earlier).hexdigest() != noted_digest(job_dir):
        return None
    return Replacement(os.path.join(job_dir, "code"), json.loads(manifest), json.loads(earlier))


def check(job_dir: str, digest: str) -> dict[str, Any]:
    """Return the conflicts for which `replace` would refuse."""
    if change := planned(job_dir, digest):
        return {"conflicts": change.conflicts}
    there = noted_digest(job_dir)
    return {"conflicts": []} if there in ("", digest) else {"conflicts": [], "holds": there}


def replace(job_dir: str, token: str, digest: str) -> None:
    """Put the whole change beside the code, then carry it out. Once it is there, any later call can finish it."""
    change = planned(job_dir, digest)
    if change is None:
        raise Refused("other code came there meanwhile")
    if change.conflicts:
        names = ", ".join(map(repr, change.conflicts[:NAMED])) + (", …" if len(change.conflicts) > NAMED else "")
        raise Refused(f"the job wrote files where the new code has others: {names}")
    staging, target = os.path.join(job_dir, "code.tmp-" + token), os.path.join(job_dir, "code.next-" + digest[:16])
    write(os.path.join(staging, "remove"), json.dumps(change.remove))
    write(os.path.join(staging, "put"), json.dumps(change.put))
    write(os.path.join(staging, "digest"), digest)
    if not os.path.isdir(target):  # else one of the same was cut short just now
        os.rename(staging, target)
    carry_on(job_dir)


def write(path: str, text: str) -> None:
    """Write a file so that it stays."""
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def alone(job_dir: str) -> Iterator[None]:
    """Hold the lock of the code: a killed controller's change may still be running beside the next one's."""
    folder = os.open(os.path.join(job_dir, "code"), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks on folders
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def carry_on(job_dir: str) -> None:
    """Do what replacements still lack, and remove what is left of pushes."""
    for name in os.listdir(job_dir):
        if name.startswith("code.next-"):
            finish(job_dir, os.path.join(job_dir, name))
    for name in os.listdir(job_dir):
        if name.startswith("code.tmp-"):
            shutil.rmtree(os.path.join(job_dir, name), ignore_errors=True)


def finish(job_dir: str, folder: str) -> None:
    """Carry one on."""
    code, told = os.path.join(job_dir, "code"), os.path.join(folder, "sha256")
    take_away(code, folder)
    bring_in(code, folder)
    with open(os.path.join(folder, "digest")) as file:
        digest = file.read()
    write(told, digest + "\n")
    os.replace(told, os.path.join(job_dir, "code.sha256"))
    os.rename(folder, os.path.join(job_dir, f"code.tmp-{os.getpid()}-{digest[:16]}"))


def take_away(code: str, folder: str) -> None:
    """Remove the files that are code no longer: all of them before new ones come, which might be taken for old."""
    todo = os.path.join(folder, "remove")
    if not os.path.exists(todo):
        return
    with open(todo) as file:
        names = json.load(file)
    for number, name in enumerate(names):
        path = os.path.join(code, local(name))
        forget_bytecode(path)
        if os.path.lexists(path):
            os.rename(path, os.path.join(folder, f"old-{number}"))
        remove_empty(os.path.dirname(path), code)
    os.unlink(todo)


def bring_in(code: str, folder: str) -> None:
    """The files of the new code that are still to come."""
    with open(os.path.join(folder, "put")) as file:
        names = json.load(file)
    for name in names:
        source, target = os.path.join(folder, "code", local(name)), os.path.join(code, local(name))
        forget_bytecode(target)
        if not os.path.lexists(source):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if is_folder(target):
            remove_tree_without_files(target)
        os.rename(source, target)


def forget_bytecode(path: str) -> None:
    """Python takes bytecode for that of a source of the same size and second."""
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    cache = os.path.join(folder, "__pycache__")
    if suffix != ".py" or not is_folder(cache):
        return
    for cached in os.listdir(cache):
        if cached.startswith(stem + ".") and is_bytecode(cache, cached):
            os.unlink(os.path.join(cache, cached))
    remove_empty(cache, folder)


def remove_empty(folder: str, top: str) -> None:
    """Remove a folder and those above it, up to `top`, as far as they are empty."""
    with contextlib.suppress(OSError):
        while folder != top:
            os.rmdir(folder)
            folder = os.path.dirname(folder)


def remove_tree_without_files(top: str) -> None:
    for place, _, files in os.walk(top, topdown=False):
        for name in files:
            if is_bytecode(place, name):
                os.unlink(os.path.join(place, name))
        os.rmdir(place)


def main(step: str, job_dir: str, token: str, digest: str) -> None:
    """Do one step."""
    job_dir = os.path.expanduser(job_dir)
    done: dict[str, Any] = {}
    try:
        if step == "check":
            done = check(job_dir, digest)
        elif step == "replace":
            with alone(job_dir):
                replace(job_dir, token, digest)
        else:
            with alone(job_dir):
                carry_on(job_dir)
    except (OSError, Refused) as error:
        shutil.rmtree(os.path.join(job_dir, "code.tmp-" + token), ignore_errors=True)
        if step != "replace" or noted_digest(job_dir) != digest:  # else another push has just done the same
            refuse(KIND, error_in_words(error))
    answer(KIND, done)


if __name__ == "__main__":
    main(*sys.argv[1:])
