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
from typing import IO

from ugro.common.errors import InputError, StateError
from ugro.common.files import FULL, FULL_HINT
from ugro.common.text import visible
from ugro.nodes.code_sync.snapshot import Bulk, CodeSelection, Copy, git_state
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
        "document": code.document.as_json(),
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
    document, sizes, git = _header(stream)
    try:
        (home / INCOMING).mkdir(mode=0o700, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=home / INCOMING))
    except OSError as error:
        raise StateError(f"{home / INCOMING} cannot be written: {error.strerror}") from None
    try:
        received = _unpack(stream, folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        what = f"the files of {visible(document.directory)}"
        if isinstance(error, tarfile.TarError):
            raise InputError(f"{what} did not arrive completely: {error}") from None
        if isinstance(error, OSError):
            hint = FULL_HINT if error.errno in FULL else ""
            raise StateError(f"{what} cannot be kept: {error.strerror}", hint) from None
        raise
    selection = CodeSelection(
        files={name: size for name, size in sizes.items() if name in received},
        refused={one.path: one.reason for one in document.not_sent},
        left_out={one.path: Bulk(one.files, one.bytes, one.more) for one in document.left_out},
        pointers=document.lfs_pointers,
        copy=Copy(folder, *git),
    )
    return WorkingCode(Path(document.directory), selection)


def _header(stream: IO[bytes]) -> tuple[CodeDocument, dict[str, int], tuple[str | None, bool | None]]:
    """Return the document of the code, its files with their bytes, and the commit in git and whether it was changed."""
    try:
        header = json.loads(stream.readline())
        commit, dirty = header["git"]
        sizes = {str(name): int(size) for name, size in header["files"]}
        return CodeDocument.checked(header["document"]), sizes, (commit, dirty)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError("code was sent without its header", "is the client of another version?") from None


def _unpack(stream: IO[bytes], folder: Path) -> set[str]:
    """Write regular files first and links last; no name may lead through a link. Return the names."""
    files, links = set[str](), list[tarfile.TarInfo]()
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.issym()):
                raise InputError(f"{visible(member.name)} is no file of a working directory")
            if member.issym():
                links.append(member)
            else:
                archive.extract(member, folder, filter="fully_trusted")
                files.add(member.name)
    names = {PurePosixPath(link.name) for link in links}
    for link in links:
        if not names.isdisjoint(PurePosixPath(link.name).parents):
            raise InputError(f"{visible(link.name)} leads through another link")
    for link in links:
        place = folder / link.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(link.linkname)
    return files | {link.name for link in links}


def forget(home: Path, code: WorkingCode | None = None) -> None:
    """Remove received code; None: all that an earlier resident left."""
    if code is None:
        shutil.rmtree(home / INCOMING, ignore_errors=True)
    elif code.selection.copy:
        shutil.rmtree(code.selection.copy.at, ignore_errors=True)
