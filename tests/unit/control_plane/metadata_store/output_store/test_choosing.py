"""Which file comes from which node."""

from __future__ import annotations

from ugro.control_plane.metadata_store.output_store.choosing import (
    choose,
    left_out,
    one_of_each_storage,
    sharing,
    to_compare,
)
from ugro.nodes.remote.files.listing import FolderEntry, FolderListing, Kind


def listing(storage: str = "", **files: int) -> FolderListing:
    """What a node has: paths with `__` for a slash, and their sizes."""
    return FolderListing(True, storage=storage, entries=tuple(entry(path, size) for path, size in files.items()))


def entry(path: str, size: int, kind: Kind = "file") -> FolderEntry:
    return FolderEntry(path.replace("__", "/"), kind, size, 0, 0o644)


def names(listings: dict[str, FolderListing], sums: dict[str, dict[str, str]]) -> list[tuple[str, str]]:
    return [(one.name, one.node) for one in choose(listings, sums)]


def test_asks_one_of_the_nodes_that_share_a_disk() -> None:
    listings = {"a": listing("s", x=1), "b": listing("s", x=1), "c": listing("t", x=1), "d": listing(x=1)}
    assert [*one_of_each_storage(listings)] == ["a", "c", "d"]
    assert sharing(listings) == {"a": ("b",), "b": ("a",), "c": (), "d": ()}


def test_takes_what_nodes_have_alike_once() -> None:
    listings = {"a": listing(x=1, own=2), "b": listing(x=1)}
    assert to_compare(listings) == {"a": {"x": 1}, "b": {"x": 1}}
    sums = {"a": {"x": "1"}, "b": {"x": "1"}}
    assert names(listings, sums) == [("own", "a"), ("x", "a")]
    assert choose(listings, sums)[1].others == ("b",)


def test_keeps_what_differs_apart_by_node() -> None:
    both = [("a/x", "a"), ("b/x", "b")]
    assert names({"a": listing(x=1), "b": listing(x=1)}, {"a": {"x": "1"}, "b": {"x": "2"}}) == both
    assert names({"a": listing(x=1), "b": listing(x=2)}, {}) == both
    assert names({"a": listing(x=1), "b": listing(x=1)}, {"a": {"x": "1"}}) == both  # b could not be asked


def test_keeps_apart_what_would_meet_a_folder_of_that_name() -> None:
    assert names({"a": listing(x=1), "b": listing(x__y=1)}, {}) == [("a/x", "a"), ("x/y", "b")]
    assert names({"a": listing(b__x=1), "b": listing(x=1)}, {}) == [("a/b/x", "a"), ("x", "b")]
    assert names({"a": listing(b__x=1)}, {}) == [("b/x", "a")]


def test_names_what_is_no_file() -> None:
    odd = FolderListing(True, entries=(entry("l", 0, "link"), entry("f", 0, "other"), entry("d", 0, "folder")))
    assert left_out([odd, odd]) == ("f", "l")
