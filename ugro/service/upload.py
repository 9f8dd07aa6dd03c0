"""Code that travels as bytes: from the client's directory through the socket to a folder of the resident's.

A header line of JSON, then a tar stream of the chosen files. What is received is kept until its session ends.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ugro.common.errors import InputError, StateError
from ugro.common.text import printable
from ugro.nodes.code_sync.snapshot import Bulk, Copy, Selection, git_state
from ugro.service.code import WorkingCode
from ugro.service.schemas.code import CodeDocument

INCOMING = "incoming"
"""The folder in the state directory where received code lies."""


@contextmanager
def sending(code: WorkingCode) -> Iterator[IO[bytes]]:
    """Yield the stream of a directory's chosen files. It is written by a thread as it is read."""
    read, write = os.pipe()
    writer = threading.Thread(target=_write, args=(code, write), daemon=True)
    with open(read, "rb") as stream:
        writer.start()
        yield stream
    writer.join()


def _write(code: WorkingCode, descriptor: int) -> None:
    """Write the stream; a file that is gone by now is left out, as from a snapshot. A reader that leaves ends it."""
    root, chosen = code.directory.resolve(), code.selection
    commit, dirty = git_state(root)
    header = {
        "document": code.document.model_dump(mode="json"),
        "files": [[name, size] for name, size in chosen.files.items()],
        "git": [commit, dirty],
    }
    try:
        with open(descriptor, "wb") as stream:
            stream.write(json.dumps(header).encode() + b"\n")
            with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for name in chosen.files:
                    try:
                        archive.add(root / name, name, recursive=False)
                    except (FileNotFoundError, NotADirectoryError):
                        continue
    except (BrokenPipeError, OSError):
        return


def receive(home: Path, stream: IO[bytes]) -> WorkingCode:
    """Keep a stream that was received as files. Returns the code, which is read there.

    Raises:
        InputError: it is not such a stream, or names a file outside of its folder.
        StateError: it cannot be written.
    """
    header = _header(stream)
    document = CodeDocument.model_validate(header["document"])
    try:
        (home / INCOMING).mkdir(mode=0o700, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=home / INCOMING))
    except OSError as error:
        raise StateError(f"{home / INCOMING} cannot be written: {error.strerror}") from None
    try:
        _unpack(stream, folder)
    except tarfile.TarError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"the files of {printable(document.directory)} arrived incomplete: {error}") from None
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StateError(f"the files of {printable(document.directory)} cannot be kept: {error.strerror}") from None
    selection = Selection(
        files={str(name): int(size) for name, size in header["files"]},
        refused={one.path: one.reason for one in document.not_sent},
        left_out={one.path: Bulk(one.files, one.bytes, one.more) for one in document.left_out},
        pointers=document.lfs_pointers,
        copy=Copy(folder, *header["git"]),
    )
    return WorkingCode(Path(document.directory), selection)


def _header(stream: IO[bytes]) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(stream.readline())
        return {name: header[name] for name in ("document", "files", "git")}
    except (ValueError, KeyError, TypeError):
        raise InputError("code was sent without its header", "is the client of another version?") from None


def _unpack(stream: IO[bytes], folder: Path) -> None:
    """Write regular files first and links last, so that no name leads through a link to another place."""
    links: list[tarfile.TarInfo] = []
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.issym()):
                raise InputError(f"{printable(member.name)} is no file of a working directory")
            if member.issym():
                links.append(member)
            else:
                archive.extract(member, folder, filter="fully_trusted")
    for member in links:
        place = folder / member.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(member.linkname)


def forget(home: Path, code: WorkingCode | None = None) -> None:
    """Remove received code; None: all that an earlier resident left."""
    if code is None:
        shutil.rmtree(home / INCOMING, ignore_errors=True)
    elif code.selection.copy:
        shutil.rmtree(code.selection.copy.at, ignore_errors=True)
