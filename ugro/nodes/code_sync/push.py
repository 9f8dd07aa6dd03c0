"""Brings a snapshot to a node: `<job_dir>/code` is there whole, or not at all.

Two steps of `receive_code.py` on the node frame the transfer. The first says which files no recent job has there
already, the last checks every file and publishes. What is missing goes by rsync where both sides have it, else, or when
rsync fails, as one tar through the transport's own channel.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import stat
import tarfile
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ugro.nodes.code_sync.rsync as rsync
from ugro.common.errors import NodeRefused, StateError
from ugro.common.text import printable
from ugro.nodes.code_sync.snapshot import walk
from ugro.nodes.scripts import load
from ugro.nodes.scripts.receive_code import local, wire
from ugro.nodes.transport import Transport

Progress = Callable[[int, int], None]
"""Called with the bytes of file content sent so far and in all."""

BLOCK = 256 * 1024
PATIENCE_SECONDS = 300
SLOWEST_LINK = 50_000
"""Bytes per second below which a push is given up."""

Entry = dict[str, Any]
"""One file: `name`, and `size`, `mode`, `mtime` (ns), `sha256`, or `link` for a symlink's target."""

PYTHON_SCRIPT = """
python=$1 program=$2
shift 2
case $python in "~/"*) python=$HOME/${python#"~/"} ;; esac
exec "$python" -I -S -c "$program" "$@"
"""


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    `files_sent` files with `bytes_sent` bytes of content were not on the node yet (rsync sends less of a file it finds
    there in another version). `seconds` is the time it took; `note` says why rsync failed where it was tried in vain.
    """

    method: Literal["rsync", "tar", "present"]
    files_sent: int = 0
    bytes_sent: int = 0
    seconds: float = 0.0
    note: str = ""


async def push_code(transport: Transport, snapshot: Path, job_dir: str, progress: Progress | None = None) -> PushReport:
    """Bring a snapshot to `<job_dir>/code` on a node. Files that a recent job's code has there are copied, not sent.

    `job_dir` is absolute or begins with `~/`. May be called again at any time: a complete push is left alone, an
    interrupted one is made anew. It takes as long as the link needs.

    Raises:
        StateError: the snapshot cannot be read.
        NodeRefused: no python, no space, no permission, or other code is there already.
        NodeError: the node cannot be reached; LinkLost: whether the code is there is unknown.
    """
    started = time.monotonic()
    try:
        entries = await asyncio.to_thread(read_manifest, snapshot)
    except OSError as error:
        raise StateError(f"the snapshot {snapshot} cannot be read: {error}") from None
    push = _Push(transport, snapshot, job_dir, entries, progress)
    report = await push.deliver()
    return replace(report, seconds=time.monotonic() - started)


def read_manifest(snapshot: Path) -> list[Entry]:
    """Every file of a snapshot.

    Raises:
        OSError: one cannot be read.
    """
    return [_entry(snapshot / path, path) for path in walk(snapshot)]


def _entry(path: Path, name: str) -> Entry:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return {"name": wire(name), "link": wire(os.readlink(path))}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    mode, mtime = status.st_mode & 0o777, status.st_mtime_ns
    return {"name": wire(name), "size": status.st_size, "mode": mode, "mtime": mtime, "sha256": digest}


class _Push:
    """One push to one node."""

    def __init__(
        self, transport: Transport, snapshot: Path, job_dir: str, entries: list[Entry], progress: Progress | None
    ) -> None:
        self._transport = transport
        self._snapshot = snapshot
        self._job_dir = job_dir
        self._entries = entries
        self._manifest = json.dumps(entries).encode()
        self._progress = progress or (lambda sent, total: None)
        self._token = secrets.token_hex(4)
        self._seconds = PATIENCE_SECONDS + sum(entry.get("size", 0) for entry in entries) / SLOWEST_LINK

    async def deliver(self) -> PushReport:
        """Do all the steps that are needed."""
        place = await self._step("begin", self._manifest)
        if place["present"]:
            return PushReport("present")
        missing = {number: self._entries[number] for number in place["missing"]}
        report = PushReport("tar", len(missing), sum(entry["size"] for entry in missing.values()))
        if missing and place["rsync"] and rsync.usable(self._transport):
            problem = await self._rsync(missing, place)
            report = replace(report, note=f"rsync failed ({problem})") if problem else replace(report, method="rsync")
        parcel = Parcel(self._snapshot, {} if report.method == "rsync" else missing, self._progress)
        answer = await self._step("finish", parcel)
        return PushReport("present") if answer["present"] else report

    async def _rsync(self, missing: Mapping[int, Entry], place: Mapping[str, Any]) -> str:
        total = sum(entry["size"] for entry in missing.values())
        command = rsync.rsync_command(
            self._transport.node, self._snapshot, local(place["tree"]), [local(source) for source in place["sources"]]
        )
        names = [local(entry["name"]) for entry in missing.values()]
        return await rsync.send(command, names, lambda done: self._progress(done, total), self._seconds)

    async def _step(self, step: str, data: bytes | AsyncIterable[bytes]) -> dict[str, Any]:
        """Run one step of the receiving program, and read its answer."""
        digest = hashlib.sha256(self._manifest).hexdigest()
        node = self._transport.node
        args = (node.python, load("receive_code.py"), step, self._job_dir, self._token, digest)
        outcome = await self._transport.run(PYTHON_SCRIPT, args, data=data, timeout=self._seconds)
        if isinstance(data, Parcel) and data.failure:
            raise StateError(f"the snapshot {self._snapshot} cannot be read: {data.failure}")
        if outcome.status in (126, 127):
            raise NodeRefused(
                node.name,
                f"python {node.python} cannot be run there",
                "set 'python' of this node in the inventory to an interpreter that has torch",
            )
        if outcome.status != 0:
            detail = printable(outcome.error_text) or f"exit {outcome.status}"
            raise NodeRefused(node.name, f"the code cannot be placed in {self._job_dir}: {detail}")
        answer: dict[str, Any] = json.loads(outcome.stdout)
        return answer


class Parcel:
    """Files of a snapshot as one tar, each named by its number in the manifest, which any file name survives.

    A transport may take an error of its data for an error of the link, so `failure` keeps what went wrong instead; the
    stream then ends early, and the node refuses it.
    """

    def __init__(self, snapshot: Path, files: Mapping[int, Entry], progress: Progress) -> None:
        self._snapshot = snapshot
        self._files = files
        self._progress = progress
        self._sent = 0
        self.failure: OSError | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = sum(entry["size"] for entry in self._files.values())
        blocks = self._blocks()
        while block := await asyncio.to_thread(next, blocks, b""):
            yield block
            if total:
                self._progress(self._sent, total)

    def _blocks(self) -> Iterator[bytes]:
        """The pieces gathered into blocks: a message for each small file would cost more than the file."""
        block = bytearray()
        try:
            for piece in self._pieces():
                block += piece
                if len(block) >= BLOCK:
                    yield bytes(block)
                    block.clear()
        except OSError as error:
            self.failure = error
            return
        yield bytes(block) + bytes(2 * tarfile.BLOCKSIZE)

    def _pieces(self) -> Iterator[bytes]:
        for number, entry in self._files.items():
            header = tarfile.TarInfo(str(number))
            header.size = entry["size"]
            yield header.tobuf(tarfile.GNU_FORMAT)
            with (self._snapshot / local(entry["name"])).open("rb") as file:
                while chunk := file.read(BLOCK):
                    self._sent += len(chunk)
                    yield chunk
            yield bytes(-header.size % tarfile.BLOCKSIZE)
