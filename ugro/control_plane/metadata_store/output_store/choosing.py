"""Choose which files of a job come from which node, and under which name: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ugro.nodes.remote.files.listing import FolderEntry, FolderListing


@dataclass(frozen=True)
class ChosenFile:
    """A file that comes from a node; `name` is its path below the folder that it goes to.

    `others` are the nodes that have the same, on disks of their own.
    """

    node: str
    entry: FolderEntry
    name: str
    others: tuple[str, ...] = ()


def one_of_each_storage(listings: Mapping[str, FolderListing]) -> dict[str, FolderListing]:
    """Return the listings without those of nodes that see the same disk as one before them."""
    kept = dict[str, FolderListing]()
    known = set[str]()
    for node, listing in listings.items():
        if not listing.storage or listing.storage not in known:
            kept[node] = listing
            known.add(listing.storage)
    return kept


def sharing(listings: Mapping[str, FolderListing]) -> dict[str, tuple[str, ...]]:
    """Return by node the others that see the same disk."""
    return {
        node: tuple(
            other for other, its in listings.items() if other != node and its.storage and its.storage == one.storage
        )
        for node, one in listings.items()
    }


def to_compare(listings: Mapping[str, FolderListing]) -> dict[str, dict[str, int]]:
    """Return by node the files, with sizes, whose sums decide whether several nodes have the same one."""
    wanted = dict[str, dict[str, int]]()
    for path, found in _by_path(listings):
        if len(found) > 1 and len({entry.size for entry in found.values()}) == 1:
            for node, entry in found.items():
                wanted.setdefault(node, {})[path] = entry.size
    return wanted


def choose(listings: Mapping[str, FolderListing], sums: Mapping[str, Mapping[str, str]]) -> list[ChosenFile]:
    """Return what comes from where: what all nodes have alike once, what differs below the names of its nodes.

    `sums` are the SHA-256 sums by node and path of what `to_compare` names.
    """
    chosen = []
    folders = {folder for listing in listings.values() for entry in listing.entries for folder in _above(entry.path)}
    for path, found in _by_path(listings):
        first, *others = found
        known = {sums.get(node, {}).get(path, "") for node in found}
        alike = len(found) == 1 or (len(known) == 1 and "" not in known)
        own = len(listings) > 1 and (path in folders or path.partition("/")[0] in listings)  # of its node's folder
        if alike and not own:
            chosen.append(ChosenFile(first, found[first], path, tuple(others)))
        else:
            chosen += [ChosenFile(node, entry, f"{node}/{path}") for node, entry in found.items()]
    return chosen


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _by_path(listings: Mapping[str, FolderListing]) -> Iterator[tuple[str, dict[str, FolderEntry]]]:
    """Yield each file's path with what each node has there."""
    paths = dict[str, dict[str, FolderEntry]]()
    for node, listing in listings.items():
        for entry in listing.entries:
            if entry.kind == "file":
                paths.setdefault(entry.path, {})[node] = entry
    yield from sorted(paths.items())


def left_out(listings: Iterable[FolderListing]) -> tuple[str, ...]:
    """Return the paths that are no files: links, which are not followed, and FIFOs, sockets or devices."""
    odd = {entry.path for listing in listings for entry in listing.entries if entry.kind in ("link", "other")}
    return tuple(sorted(odd))
