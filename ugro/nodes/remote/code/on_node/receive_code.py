"""Builds <job_dir>/code on a node beside its place and moves it there whole. Answers with one object.

usage: receive_code.py begin|finish JOB_DIR TOKEN DIGEST [EARLIER]

begin   reads the manifest (a JSON list of files), copies what recent jobs' code has already, says what is missing,
        and publishes if nothing is. Reads nothing where a recent job had the same code: its manifest is here, as
        `code.json`, or else `unknown`
finish  reads a tar of missing files, each named by its number in the manifest, checks what came, and publishes

What is copied from another job's code shares nothing with it that either could change: a job may write into its own
files, also while they are read here. So it is the copy that is checked. It takes no space where the file system can
share blocks (XFS, Btrfs).

Where other code is there already, `begin` says its digest. Called again with that as EARLIER, the new tree is made all
the same and left, `staged`, for replace_code.py. What that left unfinished has to be finished before anything else.

`code.sha256`, which holds the digest of the manifest, is written before `code` gets its name: `code` with the right
digest beside it is complete. Several pushes of one job may run at the same time, also from nodes that share a home:
each builds in a folder of its own, one gets the name, and the others find that there is nothing left to do. What they
and interrupted pushes leave is removed only after `code` is in place, or when it is old.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import stat
import sys
from typing import IO, Any, BinaryIO, Callable

from ugro.nodes.remote.code.on_node.files import CHUNK, Refused, local, noted_digest, sha256_of, wire
from ugro.nodes.remote.on_node.answer import answer, error_in_words, refuse

KIND = "receive_code"
RECENT_JOBS = 5  # more than one: people work on two projects in turn
STALE_SECONDS = 3600
THREADS = 8  # fsync waits, and waits together


class BrokenOff(Refused):
    """The stream of missing files ended early."""


class Delivery:
    """One push of one job's code, and the places it uses."""

    def __init__(self, job_dir: str, token: str, digest: str, earlier: str = "") -> None:
        self.job_dir = os.path.expanduser(job_dir)
        self.digest = digest
        self.earlier = earlier
        self.code = os.path.join(self.job_dir, "code")
        self.marker = os.path.join(self.job_dir, "code.sha256")
        self.staging = os.path.join(self.job_dir, "code.tmp-" + token)
        self.manifest = os.path.join(self.staging, "manifest.json")
        self.missing = os.path.join(self.staging, "missing.json")
        self.tree = os.path.join(self.staging, "code")

    def held(self) -> str:
        """The digest of the code that is there; empty: there is none."""
        taken = os.path.lexists(self.code)  # asked first: the marker is written before the code is there
        digest = noted_digest(self.job_dir)
        if digest and os.path.isdir(self.code) and (taken or digest == self.digest):
            return digest
        return "unknown" if taken else ""

    def complete(self) -> bool:
        """Whether the code is there, as this push would make it."""
        return self.held() == self.digest

    def unfinished(self) -> bool:
        """Whether code is being replaced here, or was when that was cut short."""
        names = os.listdir(self.job_dir) if os.path.isdir(self.job_dir) else []
        return any(name.startswith("code.next-") for name in names)

    def path(self, entry: dict[str, Any], folder: str | None = None) -> str:
        """Return the path of a manifest's entry, in the new tree or in another one."""
        return os.path.join(folder or self.tree, local(entry["name"]))


def begin(delivery: Delivery) -> dict[str, Any]:
    """Make the new tree as far as this node can by itself."""
    manifest = sys.stdin.buffer.read() or known_manifest(delivery)
    if not manifest:
        return {"present": False, "unknown": True}
    if hashlib.sha256(manifest).hexdigest() != delivery.digest:
        raise Refused("the list of files arrived incomplete")
    if delivery.unfinished():
        return {"present": False, "unfinished": True}
    held = delivery.held()
    if held == delivery.digest:
        remove_leftovers(delivery, 0)
        return {"present": True, "staged": False}
    if held and held != delivery.earlier:
        return {"present": False, "holds": held}
    try:
        return prepared(delivery, manifest)
    except OSError:
        if not delivery.complete():
            raise
        # Another push was first, and removed this one's folder as a leftover.
        shutil.rmtree(delivery.staging, ignore_errors=True)
        return {"present": True, "staged": False}


def prepared(delivery: Delivery, manifest: bytes) -> dict[str, Any]:
    """The new tree with what is here already; publishes it if that is all."""
    os.makedirs(delivery.tree)
    remove_leftovers(delivery, STALE_SECONDS)
    with open(delivery.manifest, "wb") as file:
        file.write(manifest)
    sources = recent_code(delivery)
    entries = json.loads(manifest)
    for folder in {os.path.dirname(delivery.path(entry)) for entry in entries}:
        os.makedirs(folder, exist_ok=True)
    missing = lacking(lambda entry: placed(delivery, entry, sources), entries, bool(sources))
    if not missing:
        return {"present": True, "staged": conclude(delivery, list) == "staged"}
    with open(delivery.missing, "w") as numbers:
        json.dump(missing, numbers)
    return {
        "present": False,
        "missing": missing,
        "tree": wire(delivery.tree),
        "sources": [wire(source) for source in sources],
        "rsync": shutil.which("rsync") is not None,
    }


def lacking(place: Callable[[dict[str, Any]], bool], entries: list[dict[str, Any]], slow: bool) -> list[int]:
    """Place entries of a manifest; the numbers of those that could not be. What is `slow` is done at the same time."""
    if not slow:
        return [number for number, entry in enumerate(entries) if not place(entry)]
    from concurrent.futures import ThreadPoolExecutor  # takes long to import

    with ThreadPoolExecutor(THREADS) as pool:
        return [number for number, done in enumerate(pool.map(place, entries)) if not done]


def known_manifest(delivery: Delivery) -> bytes:
    """The manifest that another job with the same code got; empty: none did. A job may change it, so it is checked."""
    jobs = os.path.dirname(delivery.job_dir)
    for name in os.listdir(jobs) if os.path.isdir(jobs) else ():
        with contextlib.suppress(OSError):
            with open(os.path.join(jobs, name, "code.sha256")) as marker:
                if marker.read().strip() != delivery.digest:
                    continue
            with open(os.path.join(jobs, name, "code.json"), "rb") as file:
                manifest = file.read()
            if hashlib.sha256(manifest).hexdigest() == delivery.digest:
                return manifest
    return b""


def recent_code(delivery: Delivery) -> list[str]:
    """The complete code folders of the jobs that got theirs last, after what is here of the job's earlier code."""
    jobs, own = os.path.split(delivery.job_dir)
    found = [(math.inf, delivery.code)] if delivery.earlier else []
    for name in os.listdir(jobs):
        with contextlib.suppress(OSError):
            arrived = os.stat(os.path.join(jobs, name, "code.sha256")).st_mtime
            code = os.path.join(jobs, name, "code")
            if name != own and os.path.isdir(code):
                found.append((arrived, code))
    return [code for _, code in sorted(found, reverse=True)[:RECENT_JOBS]]


def placed(delivery: Delivery, entry: dict[str, Any], sources: list[str]) -> bool:
    """Put an entry into the new tree for good without the master's help, if that is possible."""
    target = delivery.path(entry)
    if "link" in entry:
        os.symlink(local(entry["link"]), target)
        return True
    return any(copied(delivery.path(entry, source), target, entry) for source in sources)


def copied(source: str, target: str, entry: dict[str, Any]) -> bool:
    """Copy a file, if the copy is the wanted one."""
    original = opened(source, entry["size"])
    if original is None:
        return False
    with original, open(target, "wb", buffering=0) as copy:
        duplicate(original, copy, entry["size"])
    if settled(target, entry):
        return True
    os.unlink(target)
    return False


def duplicate(original: BinaryIO, copy: BinaryIO, size: int) -> None:
    """Copy `size` bytes; the kernel does it, and shares the blocks where the file system can."""
    with contextlib.suppress(AttributeError, OSError):  # Python before 3.8, another file system, an old kernel
        while size and (count := os.copy_file_range(original.fileno(), copy.fileno(), size)):
            size -= count
    if size:
        original.seek(0)
        copy.seek(0)
        shutil.copyfileobj(original, copy, CHUNK)


def opened(path: str, size: int) -> BinaryIO | None:
    """A readable file of that size, or None."""
    try:
        status = os.lstat(path)
        return open(path, "rb") if stat.S_ISREG(status.st_mode) and status.st_size == size else None
    except OSError:
        return None


def finish(delivery: Delivery) -> dict[str, Any]:
    """Take what was missing and make the new tree the job's code."""
    done = conclude(delivery, lambda: fill(delivery))
    return {"present": done == "present", "staged": done == "staged"}


def conclude(delivery: Delivery, filled: Callable[[], list[dict[str, Any]]]) -> str:
    """Give the whole new tree its name (`published`), or leave it `staged` where it has to replace an earlier code.

    The loser of a race to that name finds that all is done: `present`.
    """
    try:
        done = published(delivery, filled())
    except (OSError, BrokenOff):
        if not delivery.complete():
            raise
        done = "present"
    if done != "staged":
        remove_leftovers(delivery, 0)
    return done


def fill(delivery: Delivery) -> list[dict[str, Any]]:
    """Take what was missing. Returns its entries of the manifest."""
    with open(delivery.manifest, "rb") as file, open(delivery.missing) as numbers:
        entries, missing = json.load(file), json.load(numbers)
    import tarfile  # here, as `begin` starts sooner without it

    try:
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|", bufsize=CHUNK) as archive:
            for member in archive:
                receive(archive.extractfile(member), delivery.path(entries[int(member.name)]))
    except tarfile.TarError as error:
        raise BrokenOff("the transfer broke off") from error
    return [entries[number] for number in missing]


def published(delivery: Delivery, received: list[dict[str, Any]]) -> str:
    """Check what was received and give the new tree its name, unless the code is there already, or an earlier one."""
    for number in lacking(lambda entry: settled(delivery.path(entry), entry), received, len(received) > 1):
        raise Refused(f"{received[number]['name']!r} arrived incomplete")
    held = delivery.held()
    if held == delivery.digest:
        return "present"
    if held:
        if held != delivery.earlier:
            raise Refused("other code came there meanwhile")
        return "staged"
    with open(os.path.join(delivery.staging, "sha256"), "w") as marker:
        marker.write(delivery.digest + "\n")
        marker.flush()
        os.fsync(marker.fileno())
    os.replace(delivery.manifest, os.path.join(delivery.job_dir, "code.json"))
    os.replace(marker.name, delivery.marker)
    os.rename(delivery.tree, delivery.code)
    return "published"


def receive(content: IO[bytes] | None, target: str) -> None:
    """Write one file of the tar. An rsync that broke off may have left it there, even read-only."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    assert content is not None
    with open(target, "wb") as file:
        shutil.copyfileobj(content, file, CHUNK)


def settled(path: str, entry: dict[str, Any]) -> bool:
    """See that a file is what the manifest says, give it its mode and time, and put it on the disk for good."""
    if sha256_of(path) != entry["sha256"]:
        return False
    with open(path, "rb") as file:
        os.fchmod(file.fileno(), entry["mode"])
        os.utime(file.fileno(), ns=(entry["mtime"], entry["mtime"]))
        os.fsync(file.fileno())
    return True


def remove_leftovers(delivery: Delivery, age: float) -> None:
    """Remove what pushes of this job left behind, if nothing happened at its top for `age` seconds (0: in any case).

    With an age this push's own folder stays, and is what the others are compared with: it was made just now by the same
    clock, that of a file server perhaps, which this node's may be far from.
    """
    for name in os.listdir(delivery.job_dir):
        path = os.path.join(delivery.job_dir, name)
        with contextlib.suppress(OSError):
            if name.startswith("code.tmp-") and (not age or stale(path, delivery.staging, age)):
                shutil.rmtree(path, ignore_errors=True)


def stale(path: str, own: str, age: float) -> bool:
    """Whether a folder was written to more than `age` seconds before one that was made just now."""
    return path != own and os.stat(own).st_mtime - os.stat(path).st_mtime > age


def main(step: str, job_dir: str, token: str, digest: str, earlier: str = "") -> None:
    """Do one step. Whatever goes wrong, the unfinished tree goes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    delivery = Delivery(job_dir, token, digest, earlier)
    try:
        done = begin(delivery) if step == "begin" else finish(delivery)
    except BaseException as error:
        shutil.rmtree(delivery.staging, ignore_errors=True)
        if isinstance(error, (OSError, Refused)):
            refuse(KIND, error_in_words(error))
        raise
    answer(KIND, done)


if __name__ == "__main__":
    main(*sys.argv[1:])
