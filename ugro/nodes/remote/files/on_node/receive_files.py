"""Takes files of the user's into a folder, each from where the last try ended. Answers with one object.

usage: receive_files.py begin|finish FOLDER BASE_DIR

begin   reads a line of JSON, [[NAME, SIZE], …], and says how much of each is here already, beside its place or in it,
        and the sum of that; also what room there is, and the id of the storage if that is the one of BASE_DIR
finish  reads a line of JSON, [[NUMBER, NAME, SIZE, MTIME, EXECUTABLE, FROM, SHA256], …], then a tar of what is missing,
        each file named by its number and beginning at FROM; gives a file its name when its sum is right

The bytes of a file so far are beside its place, as NAME.ugro-part, until it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import sys
import tarfile
from typing import Any

from ugro.nodes.remote.code.on_node.files import local
from ugro.nodes.remote.files.on_node.below import PIECE, Outside, names_of
from ugro.nodes.remote.on_node.answer import answer, error_in_words, refuse

KIND = "receive_files"
PART = ".ugro-part"


def part_of(path: str) -> str:
    """Return the path of a file while it is incomplete."""
    folder, name = os.path.split(path)
    if len(os.fsencode(name)) + len(PART) > 255:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return os.path.join(folder, name + PART)


def place_of(folder: str, name: str) -> str:
    """Return the path of a file; it stays below the folder."""
    return os.path.join(folder, *names_of(local(name)))


def size_of(path: str) -> int:
    """The size of a regular file; -1: there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def digest_of(path: str) -> Any:
    """The sum of what is in a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(PIECE), b""):
            digest.update(chunk)
    return digest


def held(path: str, size: int) -> list[Any]:
    """How many bytes of a file are here, their sum, and whether they are in its place."""
    part = part_of(path)
    if 0 < size_of(part) <= size:
        return [size_of(part), digest_of(part).hexdigest(), False]
    if size_of(path) == size:
        return [size, digest_of(path).hexdigest(), True]
    return [0, "", False]


def storage_of(folder: str, base: str) -> str:
    """The id of the storage that a folder lies on, if BASE_DIR lies on it, too; made where there is none."""
    os.makedirs(base, mode=0o700, exist_ok=True)
    path = os.path.join(base, "storage-id")
    if size_of(path) <= 0:
        fresh = os.path.join(base, f".storage-id.{os.getpid()}")
        with open("/proc/sys/kernel/random/uuid") as source, open(fresh, "w") as file:
            file.write(source.read())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        os.unlink(fresh)
    with open(path, errors="replace") as file:
        found = file.read(100).strip()
    return found if os.stat(folder).st_dev == os.stat(base).st_dev else ""


def begin(folder: str, base: str) -> dict[str, Any]:
    """Report what is here, and the room."""
    wanted = json.loads(sys.stdin.buffer.readline())
    os.makedirs(folder, exist_ok=True)
    room = os.statvfs(folder)
    return {
        "folder": os.path.realpath(folder),
        "storage": storage_of(folder, base),
        "free": room.f_bavail * room.f_frsize,
        "held": [held(place_of(folder, name), size) for name, size in wanted],
    }


def finish(folder: str) -> dict[str, Any]:
    """Take what is missing, and give names."""
    wanted = json.loads(sys.stdin.buffer.readline())
    problems = []
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
        for number, name, size, mtime, executable, start, known in wanted:
            path = place_of(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            digest = taken(archive, str(number), part_of(path), start, size)
            if digest != known:
                os.unlink(part_of(path))
                problems.append([number, "what came has another SHA-256 sum than the file: it changed meanwhile"])
                continue
            put_in_place(path, mtime, executable)
    return {"problems": problems}


def taken(archive: tarfile.TarFile, name: str, part: str, start: int, size: int) -> str:
    """Add what comes to what is here of a file; the sum of all of it."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with open(descriptor, "r+b", buffering=0) as file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Outside(11, "another push is writing " + part) from None
        file.truncate(start)
        digest = hashlib.sha256()
        for chunk in iter(lambda: file.read(PIECE), b""):
            digest.update(chunk)
        if start < size:
            member = archive.next()
            source = archive.extractfile(member) if member is not None and member.name == name else None
            if source is None:
                raise Outside(22, "the stream broke off")
            for chunk in iter(lambda: source.read(PIECE), b""):
                left = memoryview(chunk)
                while left:
                    left = left[file.write(left) :]
                digest.update(chunk)
        os.fsync(file.fileno())
    return digest.hexdigest()


def put_in_place(path: str, mtime: int, executable: bool) -> None:
    """Give a whole file its name, its time and the right to run it."""
    part = part_of(path)
    mode = os.stat(part).st_mode & 0o777
    os.chmod(part, mode | ((mode & 0o444) >> 2 if executable else 0))
    os.utime(part, ns=(mtime, mtime))
    os.replace(part, path)


def main() -> None:
    step, folder, base = sys.argv[1:]
    folder, base = os.path.expanduser(folder), os.path.expanduser(base)
    try:
        answer(KIND, begin(folder, base) if step == "begin" else finish(folder))
    except (OSError, tarfile.TarError) as error:
        refuse(KIND, error_in_words(error))


if __name__ == "__main__":
    main()
