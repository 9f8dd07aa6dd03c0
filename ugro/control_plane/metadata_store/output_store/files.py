"""The files of a job on its nodes: what there is, and how it comes to this machine."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import InputError, NodeError, StateError, UgroError
from ugro.common.models.job import Job
from ugro.common.paths import CODE, RunPaths
from ugro.common.text import bytes_in_words, count, printable, visible
from ugro.control_plane.metadata_store.output_store.choosing import (
    ChosenFile,
    choose,
    left_out,
    one_of_each_storage,
    to_compare,
)
from ugro.nodes.code_sync.ignore import IGNORE_FILE
from ugro.nodes.pool import Pool
from ugro.nodes.remote.files import listing as remote
from ugro.nodes.remote.files.fetch import AGAIN, Fetch, Fetched, Wanted, fetch, part_of, sums
from ugro.nodes.remote.files.listing import MOST_FILES, FolderListing
from ugro.nodes.transport import Transport

NO_CODE = """\
# Written by `ugro pull`: what it copied here is not sent with the code of later jobs. Remove this file to send it.
*
"""
"""An ignore file that names all that is beside it, and itself."""

Progress = Callable[[str, int, int], None]
"""Called with the node, and the bytes received so far and in all."""


@dataclass(frozen=True)
class NodeFiles:
    """The files of nodes: a listing each, or why there is none."""

    listings: Mapping[str, FolderListing]
    silent: Mapping[str, NodeError]


@dataclass(frozen=True)
class Missing:
    """A file that did not come, and why."""

    node: str
    path: str
    why: str


@dataclass
class FetchedFiles:
    """Result of a transfer: files that are here, files that are not, names that are no files, and errors."""

    done: list[tuple[ChosenFile, Fetched]] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    left_out: tuple[str, ...] = ()
    errors: list[UgroError] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything is here."""
        return not (self.missing or self.errors)


def places(inventory: Inventory, job: Job, only: str | None = None) -> dict[str, NodeConfig]:
    """Return the nodes of a job's attempt as they are reached: as the inventory describes them now, if that is the same
    place, else as they were then.

    Raises:
        InputError: it never got nodes, or did not run on that one.
    """
    if job.placement is None:
        raise InputError(
            f"{job.id} has no files: it is {job.state.value} and has not started",
            f"see: ugro status {job.id}" if job.state.ended else f"see why it waits: ugro why {job.id}",
        )
    found = dict[str, NodeConfig]()
    for share in job.placement.shares:
        now = inventory.nodes.get(share.node)
        was = share.config or now
        if was is not None:
            same = now is not None and (now.address, now.user, now.base_dir) == (was.address, was.user, was.base_dir)
            found[share.node] = now if now and same else was
    if not found:
        nodes = ", ".join(share.node for share in job.placement.shares)
        raise InputError(f"{job.id} ran on {nodes}, and nothing tells how that is reached any more", "ugro nodes")
    if only is not None and only not in found:
        raise InputError(f"{job.id} did not run on {printable(only)}", f"it ran on {', '.join(found)}")
    return {only: found[only]} if only is not None else found


class JobFilesOnNodes:
    """Lists and brings what an attempt of a job wrote beside its code, on its nodes."""

    def __init__(self, pool: Pool, job: Job, configs: Mapping[str, NodeConfig]) -> None:
        self._pool = pool
        self._job = job
        self._configs = configs

    def _folder(self, transport: Transport) -> tuple[str, str]:
        base = transport.node.base_dir
        return f"{RunPaths(base, self._job.id, self._job.attempt, 0).job_dir}/{CODE}", base

    async def list_folder(self, path: str, depth: int) -> NodeFiles:
        """Return what lies below a path of the job's folder on each node."""
        return await self._ask(lambda node: remote.list_folder(node, *self._folder(node), path, depth))

    async def find(self, globs: Sequence[str], within: float | None = None) -> NodeFiles:
        """Return the files below the job's folder that globs name, on each node that answers within that time."""
        return await self._ask(lambda node: remote.find_files(node, *self._folder(node), globs), within)

    async def _ask(
        self, look: Callable[[Transport], Awaitable[FolderListing]], within: float | None = None
    ) -> NodeFiles:
        answers = await self._pool.each(self._configs, look, within, self._configs)
        listings = {name: answer for name, answer in answers.items() if isinstance(answer, FolderListing)}
        silent = {name: answer for name, answer in answers.items() if isinstance(answer, NodeError)}
        return NodeFiles(listings, silent)

    async def bring(
        self, found: NodeFiles, target: Path, progress: Progress | None = None, trusted: bool = False
    ) -> FetchedFiles:
        """Bring the files found to a folder of this machine, with their paths below the job's folder.

        Only UGRO writes to a `trusted` folder: a file there with the node's size and time is not read again. Any other
        folder that is made here is left out of the code of later jobs.

        A file whose content differs between nodes goes below the names of its nodes. The received part of a transfer
        that ended early stays, and the next call continues it.

        Raises:
            InputError: too many files are named, or the folder cannot be made. StateError: this machine has too little
                space for them.
        """
        for listing in found.listings.values():
            if listing.more:
                raise InputError(
                    f"more than {MOST_FILES} files are named", "name fewer of them, or pack them on the node"
                )
        here = one_of_each_storage(found.listings)
        chosen = choose(here, await self._sums(here))
        brought = FetchedFiles(left_out=left_out(here.values()), errors=list(found.silent.values()))
        brought.missing = [Missing(node, path, "it may not be read") for node in here for path in here[node].unread]
        brought.missing += [
            Missing(node, count(one.odd, "name"), "no UTF-8; rename it there") for node, one in here.items() if one.odd
        ]
        await asyncio.to_thread(_require_space, target, chosen)
        if chosen and not trusted:
            await asyncio.to_thread(_make, target)
        by_node = dict[str, list[ChosenFile]]()
        if trusted:
            there, chosen = await asyncio.to_thread(_parted, chosen, target)
            brought.done = [(one, Fetched(_wanted(one, target), "same", one.entry.size, 0, "")) for one in there]
        for choice in chosen:
            by_node.setdefault(choice.node, []).append(choice)

        async def one(transport: Transport) -> Fetch:
            wanted = [_wanted(one, target) for one in by_node[transport.name]]
            folder, _ = self._folder(transport)
            tell = None if progress is None else _about(progress, transport.name)
            return await fetch(transport, folder, wanted, tell)

        answers = await self._pool.each(by_node, one, configs=self._configs)
        for node, answer in answers.items():
            if isinstance(answer, NodeError):
                brought.errors.append(answer)
                continue
            paths = {choice.entry.path: choice for choice in by_node[node]}
            brought.done += [(paths[each.wanted.path], each) for each in answer.done]
            brought.missing += [Missing(node, path, why) for path, why in answer.problems.items()]
            brought.errors += [answer.error] if answer.error else []
        brought.done.sort(key=lambda each: each[0].name)
        return brought

    async def _sums(self, listings: Mapping[str, FolderListing]) -> dict[str, dict[str, str]]:
        """Return by node the sums of what several nodes may have alike."""
        wanted = to_compare(listings)

        async def one(transport: Transport) -> dict[str, str]:
            return await sums(transport, self._folder(transport)[0], wanted[transport.name])

        answers = await self._pool.each(wanted, one, configs=self._configs)
        return {node: answer for node, answer in answers.items() if not isinstance(answer, NodeError)}


def _wanted(choice: ChosenFile, target: Path) -> Wanted:
    return Wanted(choice.entry.path, choice.entry.size, target / choice.name)


def _parted(chosen: Sequence[ChosenFile], target: Path) -> tuple[list[ChosenFile], list[ChosenFile]]:
    """Return the files that are there, and the others."""
    there = {number for number, one in enumerate(chosen) if _is_there(one, target)}
    return [chosen[number] for number in sorted(there)], [
        one for number, one in enumerate(chosen) if number not in there
    ]


def _is_there(choice: ChosenFile, target: Path) -> bool:
    """Return whether a file came before, by its size and time."""
    try:
        status = (target / choice.name).lstat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (choice.entry.size, choice.entry.modified)


def _about(progress: Progress, node: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(node, done, total)


def _require_space(target: Path, chosen: Iterable[ChosenFile]) -> None:
    """See that there is room for what is not here.

    Raises:
        StateError: there is not.
    """
    needed = sum(max(0, one.entry.size - _here(target / one.name)) for one in chosen)
    there = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.is_dir())
    total, _, free = shutil.disk_usage(there)
    if total and needed > free:  # a file system of the kernel's, such as /proc, has no size
        words = f"{visible(str(target))} has {bytes_in_words(free)} free, and {bytes_in_words(needed)} are to come"
        raise StateError(words, f"free some space there, or choose another folder, {AGAIN}")


def _make(target: Path) -> None:
    """Make a folder that the user named, unless it exists.

    Raises:
        InputError: it cannot be made.
    """
    if target.is_dir():
        return
    try:
        target.mkdir(parents=True)
        (target / IGNORE_FILE).write_text(NO_CODE, encoding="utf-8")
    except OSError as error:
        words = f"{visible(str(target))} cannot be made: {error.strerror}"
        raise InputError(words, "choose another folder: --to DIR") from None


def _here(target: Path) -> int:
    """Return the bytes of a file that are here, complete or not."""
    for path in (part_of(target), target):
        if path.is_file():
            return path.stat().st_size
    return 0
