"""Brings a snapshot to a node: `<job_dir>/code` is there whole, or not at all.

Two steps of `receive_code.py` on the node frame the transfer. The first says which files no recent job has there
already, the last checks every file and publishes. Missing files are sent by rsync where both sides have it; else, or
when rsync fails, as one tar through the transport's own channel. Where a node has an earlier code of the job, the first
step learns what was in that one, so that the last can replace it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import secrets
import tarfile
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import InstanceOf, TypeAdapter

import ugro.nodes.code_sync.rsync as rsync
from ugro.common.errors import NodeRefused, StateError
from ugro.common.models.record import Record
from ugro.common.text import some, visible
from ugro.nodes.code_sync.manifest import Entry, encoded, read_manifest
from ugro.nodes.remote.answers import SENSELESS, payload
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.code.on_node.files import local
from ugro.nodes.remote.python import RUN_PROGRAM, require_python
from ugro.nodes.transport import Transport
from ugro.nodes.transport.ssh_config import find_route

Progress = Callable[[int, int], None]
"""Called with the bytes of file content sent so far and in all."""

BLOCK = 256 * 1024
PATIENCE_SECONDS = 300
SLOWEST_LINK = 50_000
"""Bytes per second below which a push is given up."""

CARRY_ONS = 10
"""How often an unfinished push of another controller is carried on: it can be begun again only by one that lives."""

SHORT_LIST = 64 * 1024
"""Bytes of a list of files below which the node is not asked first whether it has it: that takes longer."""

CONFLICT_HINT = "move them away on the node, or leave them out of the new code with .ugroignore"


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


class _Place(Record):
    """What the node says of the place for the code. `missing` are numbers of the manifest.

    Names may hold bytes that are no UTF-8 (as surrogates), which a plain `str` of pydantic refuses.
    """

    present: bool
    staged: bool = False
    unfinished: bool = False
    unknown: bool = False
    holds: str = ""
    missing: tuple[int, ...] | None = None
    rsync: bool = False
    tree: InstanceOf[str] = ""
    sources: tuple[InstanceOf[str], ...] = ()


class _Change(Record):
    """What the node says of the replacement of earlier code; `conflicts` when it was asked for them."""

    conflicts: tuple[InstanceOf[str], ...] | None = None
    holds: str = ""


A = TypeVar("A", bound=Record)

_PLACE = TypeAdapter(_Place)
_CHANGE = TypeAdapter(_Change)


async def push_code(
    transport: Transport, snapshot: Path, job_dir: str, progress: Progress | None = None, before: Sequence[Path] = ()
) -> PushReport:
    """Bring a snapshot to `<job_dir>/code` on a node. Files that a recent job's code has there are copied, not sent.

    `job_dir` is absolute or begins with `~/`. May be called again at any time: a complete push is left alone, an
    interrupted one is repeated or continued. It takes as long as the link needs.

    Code of one of the snapshots `before` is replaced: files of it that are no more go, those that the job wrote stay.

    Raises:
        StateError: the snapshot cannot be read.
        NodeRefused: no python, no space, no permission, other code is there already, or the job wrote files where the
            snapshot has others; nothing was changed.
        NodeError: the node cannot be reached; LinkLost: whether the code is there is unknown.
    """
    started = time.monotonic()
    push = await _push(transport, snapshot, job_dir, before, progress)
    report = await push.deliver()
    return replace(report, seconds=time.monotonic() - started)


async def conflicts(transport: Transport, snapshot: Path, job_dir: str, before: Sequence[Path]) -> list[str]:
    """The files that a job wrote on a node where the snapshot has others, by name. It only looks.

    Raises:
        StateError, NodeError: as `push_code` does.
    """
    push = await _push(transport, snapshot, job_dir, before, None)
    return await push.conflicts()


def conflict_in_words(names: Sequence[str]) -> str:
    """Return the sentence that names such files."""
    return f"the job wrote files where the new code has others: {some([visible(name) for name in names])}"


async def _push(
    transport: Transport, snapshot: Path, job_dir: str, before: Sequence[Path], progress: Progress | None
) -> _Push:
    try:
        entries = await asyncio.to_thread(read_manifest, snapshot)
    except OSError as error:
        raise StateError(f"the snapshot {snapshot} cannot be read: {error}") from None
    return _Push(transport, snapshot, job_dir, entries, before, progress)


class _Push:
    """One push to one node."""

    def __init__(
        self,
        transport: Transport,
        snapshot: Path,
        job_dir: str,
        entries: list[Entry],
        before: Sequence[Path],
        progress: Progress | None,
    ) -> None:
        self._transport = transport
        self._snapshot = snapshot
        self._job_dir = job_dir
        self._entries = entries
        self._manifest = encoded(entries)
        self._before = before
        self._progress = progress or (lambda sent, total: None)
        self._earlier = b""
        self._digest = hashlib.sha256(self._manifest).hexdigest()
        self._token = secrets.token_hex(4)
        self._seconds = PATIENCE_SECONDS + sum(entry.get("size", 0) for entry in entries) / SLOWEST_LINK

    async def deliver(self) -> PushReport:
        """Do all the steps that are needed."""
        place = await self._begin()
        report = PushReport("present")
        if not place.present:
            report, place = await self._send(place)
        if place.staged:
            await self._replace("replace")
        return report

    async def _send(self, place: _Place) -> tuple[PushReport, _Place]:
        """Send what is missing. Returns what was done, and what the node says then."""
        if place.missing is None or not all(0 <= number < len(self._entries) for number in place.missing):
            raise self._refusal(SENSELESS)
        missing = {number: self._entries[number] for number in place.missing}
        report = PushReport("tar", len(missing), sum(entry["size"] for entry in missing.values()))
        if missing and place.rsync and rsync.usable(self._transport):
            problem = await self._rsync(missing, place)
            report = replace(report, note=f"rsync failed ({problem})") if problem else replace(report, method="rsync")
        parcel = Parcel(self._snapshot, {} if report.method == "rsync" else missing, self._progress)
        answer = await self._receive("finish", parcel)
        return PushReport("present") if answer.present else report, answer

    async def conflicts(self) -> list[str]:
        """Code that no snapshot knows is for the push to judge: it may be that of another master's job."""
        answer = await self._replace("check")
        if answer.holds and (earlier := await asyncio.to_thread(self._manifest_of, answer.holds)):
            self._earlier = earlier
            answer = await self._replace("check")
        if answer.conflicts is None:
            raise self._refusal(SENSELESS)
        return list(answer.conflicts)

    async def _begin(self) -> _Place:
        place = await self._first_step()
        if place.holds:
            if names := await self.conflicts():
                raise NodeRefused(self._transport.name, conflict_in_words(names), CONFLICT_HINT)
            place = await self._first_step()
        if place.holds:
            raise self._refusal("code is there already and holds other code: move it away")
        return place

    async def _first_step(self) -> _Place:
        """Return the first step, once nothing is unfinished: a killed controller's transfer may still be running."""
        place = await self._listed()
        for _ in range(CARRY_ONS):
            if not place.unfinished:
                return place
            await self._replace("carry_on")
            place = await self._listed()
        raise self._refusal("an earlier transfer there does not end")

    async def _listed(self) -> _Place:
        """Begin, with the list of files where the node has none of the same code."""
        if len(self._manifest) > SHORT_LIST:
            place = await self._receive("begin", b"")
            if not place.unknown:
                return place
        return await self._receive("begin", self._manifest)

    def _manifest_of(self, digest: str) -> bytes:
        """Return the manifest of the earlier snapshot that is this code; empty: none is."""
        for snapshot in self._before:
            with contextlib.suppress(OSError):  # it is gone from here
                manifest = encoded(read_manifest(snapshot))
                if hashlib.sha256(manifest).hexdigest() == digest:
                    return manifest
        return b""

    async def _rsync(self, missing: Mapping[int, Entry], place: _Place) -> str:
        total = sum(entry["size"] for entry in missing.values())
        node = self._transport.node
        sources = [local(source) for source in place.sources]
        command = rsync.rsync_command(node, self._snapshot, local(place.tree), sources, await find_route(node))
        names = [local(entry["name"]) for entry in missing.values()]
        return await rsync.send(command, names, lambda done: self._progress(done, total), self._seconds)

    async def _receive(self, step: str, data: bytes | AsyncIterable[bytes]) -> _Place:
        """A step of the program that makes the new tree."""
        earlier = hashlib.sha256(self._earlier).hexdigest() if self._earlier else ""
        args = (step, self._job_dir, self._token, self._digest, earlier)
        return await self._ask("receive_code", args, data, _PLACE)

    async def _replace(self, step: str) -> _Change:
        """A step of the program that puts it in the place of earlier code."""
        args = (step, self._job_dir, self._token, self._digest)
        return await self._ask("replace_code", args, self._manifest + b"\n" + self._earlier, _CHANGE)

    async def _ask(
        self, script: str, args: Sequence[str], data: bytes | AsyncIterable[bytes], shape: TypeAdapter[A]
    ) -> A:
        """The answer of a script that reads data on the node, without what that python has installed."""
        transport = self._transport
        words = (transport.node.python, load(f"code/{script}.py"), *args)
        outcome = await transport.run(RUN_PROGRAM, words, data=data, timeout=self._seconds)
        if isinstance(data, Parcel) and data.failure:
            raise StateError(f"the snapshot {self._snapshot} cannot be read: {data.failure}")
        require_python(transport, outcome)
        return payload(transport, outcome, script, shape, self._problem)

    def _refusal(self, detail: str) -> NodeRefused:
        return NodeRefused(self._transport.name, f"{self._problem}: {detail}")

    @property
    def _problem(self) -> str:
        return f"the code cannot be placed in {self._job_dir}"


class Parcel:
    """Files of a folder as one tar, each named by its number in the manifest, which any file name survives.

    An entry with `from` is so many bytes (`size`) of its file from there on.

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
            left = header.size
            with (self._snapshot / local(entry["name"])).open("rb") as file:
                file.seek(entry.get("from", 0))
                while left and (chunk := file.read(min(BLOCK, left))):
                    self._sent += len(chunk)
                    left -= len(chunk)
                    yield chunk
            if left:
                raise OSError(errno.EIO, "it is shorter than it was", file.name)
            yield bytes(-header.size % tarfile.BLOCKSIZE)
