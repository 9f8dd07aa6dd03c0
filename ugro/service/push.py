"""Copies a file or folder of this machine to nodes."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ugro.common.errors import EXIT_NODES, EXIT_OK, InputError, NodeError, StateError, UgroError
from ugro.common.text import visible
from ugro.nodes.remote.code.on_node.files import wire
from ugro.nodes.remote.files.deliver import Delivered, Ready, Source, deliver, prepare, sum_of
from ugro.nodes.remote.files.fetch import PART
from ugro.nodes.transport import Transport
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.schemas.files import MissingFile, Push, PushAnswer, PushDocument, PushedNode

DATA = "data"
"""Folder in a node's `base_dir` that takes what names no other place."""

MOST_FILES = 30_000
"""Files of one push: with more of them, one archive travels and is read many times as fast."""

ALL = "all"


@dataclass(frozen=True)
class Selected:
    """The files of a path, and what in it is none."""

    sources: list[Source]
    left_out: list[str]


def select(path: Path) -> Selected:
    """Return the files of a path on this machine: itself, or all below it. Links in it are not followed.

    Raises:
        InputError: there is no such path, it cannot be read, or it has too many files.
    """
    top = path.absolute()
    if not top.name or top.name == "..":
        top = top.resolve()
    try:
        if stat.S_ISREG((status := top.stat()).st_mode):
            return Selected([_source(top, top.name, status)], [])
        if not stat.S_ISDIR(status.st_mode) or not top.name:
            raise InputError(f"{visible(str(path))} is neither a file nor a folder with a name")
        return _below(top)
    except OSError as error:
        name = visible(str(error.filename or path))
        raise InputError(
            f"{name} cannot be read: {error.strerror}", "name a file or a folder of this machine"
        ) from None


def _below(top: Path) -> Selected:
    found = Selected([], [])

    def stop(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(top, onerror=stop):
        folders.sort()
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*names, *linked]):
            path = Path(folder, name)
            status = path.lstat()
            relative = f"{top.name}/{path.relative_to(top)}"
            if not stat.S_ISREG(status.st_mode):
                found.left_out.append(visible(os.fsencode(relative).decode("utf-8", "replace")))
            elif not name.endswith(PART):
                found.sources.append(_source(path, relative, status))
            if len(found.sources) > MOST_FILES:
                raise InputError(f"{visible(str(top))} has more than {MOST_FILES} files", "pack it first: tar, zip")
    return found


def _source(path: Path, name: str, status: os.stat_result) -> Source:
    executable = bool(status.st_mode & stat.S_IXUSR)
    return Source(path, wire(name), status.st_size, status.st_mtime_ns, executable)


async def push(context: Context, request: Push) -> PushAnswer:
    """Copy a file or folder of this machine to nodes, all at the same time.

    Raises:
        InputError: there is no such path or node, or the path has no files.
    """
    names = list(context.inventory.nodes) if request.node == ALL else [context.inventory.node(request.node).name]
    if request.path == "":
        raise InputError("the path is empty", "name a file or a folder of this machine; `.` is the working directory")
    if request.to == "":
        raise InputError("--to is empty", f"name a folder of the node, or leave --to out: it is {DATA} in its base_dir")
    path = Path(request.path).expanduser()
    selected = await asyncio.to_thread(select, path)
    if not selected.sources:
        raise InputError(f"{visible(str(path))} has no files", "links are not followed: name what they lead to")
    pool = (await context.reach()).pool

    def target(node: Transport) -> str:
        return request.to or f"{node.node.base_dir.rstrip('/')}/{DATA}"

    async def ready(node: Transport) -> Ready:
        return await prepare(node, target(node), selected.sources)

    answers, sums = await asyncio.gather(
        pool.each(names, ready), asyncio.to_thread(lambda: [sum_of(one, one.size) for one in selected.sources])
    )
    prepared = {name: answer for name, answer in answers.items() if isinstance(answer, Ready)}
    sharing = _sharing(prepared)
    failed = {name: answer for name, answer in answers.items() if isinstance(answer, NodeError)}
    unread = list[StateError]()

    async def send(node: Transport) -> Delivered | None:
        def tell(done: int, total: int) -> None:
            context.tell_sent(node.name, done, total)

        try:
            return await deliver(node, target(node), selected.sources, sums, prepared[node.name], tell)
        except StateError as error:
            unread.append(error)
            return None

    sent = await pool.each(sharing, send)
    name = selected.sources[0].name.partition("/")[0]
    nodes = []
    for node in (*sharing, *failed):
        answer = sent.get(node, failed.get(node))
        error: UgroError | None = answer if isinstance(answer, NodeError) else unread[0] if answer is None else None
        place = f"{prepared[node].folder}/{name}" if node in prepared else ""
        nodes.append(_document(node, sharing.get(node, ()), place, answer, error))
    answer_document = PushDocument(
        path=str(path.absolute()),
        files=len(selected.sources),
        bytes=sum(one.size for one in selected.sources),
        left_out=tuple(selected.left_out),
        nodes=tuple(nodes),
    )
    return PushAnswer(answer=answer_document, exit_code=_exit_code(answer_document, unread))


def _sharing(prepared: Mapping[str, Ready]) -> dict[str, tuple[str, ...]]:
    """Return the first node of each disk, with the others that see it."""
    by_disk = dict[tuple[str, str], list[str]]()
    for node, ready in prepared.items():
        by_disk.setdefault((ready.storage, ready.folder) if ready.storage else ("", node), []).append(node)
    return {first: tuple(others) for first, *others in by_disk.values()}


def _document(
    node: str, same_as: tuple[str, ...], place: str, answer: Delivered | NodeError | None, error: UgroError | None
) -> PushedNode:
    done = answer if isinstance(answer, Delivered) else Delivered(0, 0, {})
    return PushedNode(
        node=node,
        same_as=same_as,
        folder=place.encode("utf-8", "replace").decode(),
        sent=done.sent,
        same=done.same,
        missing=tuple(MissingFile(path=path, node=node, reason=why) for path, why in done.problems.items()),
        error=error_document(error) if error else None,
    )


def _exit_code(document: PushDocument, unread: Sequence[StateError]) -> int:
    if unread:
        return unread[0].exit_code
    return EXIT_NODES if any(one.error or one.missing for one in document.nodes) else EXIT_OK
