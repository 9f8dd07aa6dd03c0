"""Edits of an inventory as text: one node changes, and every other byte stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugro.common.errors import InputError, InventoryError
from ugro.common.inventory_edit import InventoryText, node_line
from ugro.common.inventory_file import parse_inventory

PATH = Path("inventory.yaml")

FLOW = """\
# The machines.
defaults:
  python: python3   # has torch

nodes:  # the first one holds rank 0
  master: {address: 10.0.0.1, local: true}
  gpu1: {address: 10.0.0.2, user: ob}   # the fast one
  # In your ssh configuration there are also:
  # gpu9: {address: gpu9}
dashboard:
  launch: true
"""

WIDE = """\
nodes:
    master:
        address: 10.0.0.1
        local: true
        # no port
    gpu1:
        address: 10.0.0.2
        env:
            A: b
        # its comment


# the end
"""


def edited(text: str) -> InventoryText:
    return InventoryText(PATH, text.encode())


def test_adds_a_line_after_the_last_node() -> None:
    after = edited(FLOW).adding("gpu2", {"address": "10.0.0.3", "user": "ollie"})
    mark = "# the fast one\n"
    assert after == FLOW.replace(mark, f"{mark}  gpu2: {{address: 10.0.0.3, user: ollie}}\n")


def test_adds_a_node_in_the_indent_and_style_of_the_last_one() -> None:
    after = edited(WIDE).adding("gpu2", {"address": "10.0.0.3", "port": 2222})
    mark = "        # its comment\n"
    assert after == WIDE.replace(mark, f"{mark}    gpu2:\n        address: 10.0.0.3\n        port: 2222\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nodes:\r\n  a: {address: a}\r\n", "nodes:\r\n  a: {address: a}\r\n  b: {address: b}\r\n"),
        ("nodes:\n  a: {address: a}", "nodes:\n  a: {address: a}\n  b: {address: b}"),
        ("\ufeffnodes:\n  a: {address: a}\n", "\ufeffnodes:\n  a: {address: a}\n  b: {address: b}\n"),
        ("nodes:\n a:\n  address: a\n", "nodes:\n a:\n  address: a\n b:\n  address: b\n"),
        ("nodes:\n  a: {address: a,\n    port: 22}\n", "nodes:\n  a: {address: a,\n    port: 22}\n  b: {address: b}\n"),
        ("nodes:\n  a:\n    gpus:\n    - X\n    address: a\n", None),
    ],
)  # fmt: skip
def test_keeps_line_ends_and_a_missing_last_newline(text: str, expected: str | None) -> None:
    assert edited(text).adding("b", {"address": "b"}) == (expected or f"{text}  b:\n    address: b\n")


@pytest.mark.parametrize(
    "text",
    [
        "nodes: {a: {address: a}}\n",
        "defaults: &x {python: p}\nnodes:\n  a: &y {address: a}\n  c: *y\n",
        "nodes: &all\n  a: {address: a}\n",
    ],
)
def test_prints_the_line_where_the_text_cannot_be_edited(text: str) -> None:
    with pytest.raises(InventoryError, match="is not edited: its nodes") as refused:
        edited(text).adding("b", {"address": "b"})
    assert refused.value.hint == "paste this below `nodes:` there:   b: {address: b}"


def test_edits_beside_anchors_elsewhere() -> None:
    text = "defaults: {env: &e {A: b}}\nnodes:\n  a: {address: a}\ndashboard: {launch: false}\n"
    assert "\n  a: {address: a}\n  b: {address: b}\ndash" in edited(text).adding("b", {"address": "b"})


def test_removes_a_node_with_its_comments() -> None:
    assert edited(WIDE).removing("master") == "nodes:\n" + WIDE[WIDE.index("    gpu1") :]
    assert edited(FLOW).removing("gpu1") == FLOW.replace("  gpu1: {address: 10.0.0.2, user: ob}   # the fast one\n", "")
    with pytest.raises(InventoryError, match="a is the only node"):
        edited("nodes:\n  a: {address: a}\n").removing("a")


def test_renames_a_node_also_in_braces() -> None:
    assert edited(FLOW).renaming("gpu1", "big") == FLOW.replace("  gpu1:", "  big:")
    assert edited("nodes: {a: {address: a}}\n").renaming("a", "no") == "nodes: {'no': {address: a}}\n"
    assert list(parse_inventory(edited(FLOW).renaming("gpu1", "yes"), PATH).nodes) == ["master", "yes"]


def test_writes_nothing_over_a_change_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_text(FLOW)
    path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    read = InventoryText(link, path.read_bytes())
    after = read.adding("b", {"address": "b"})
    read.replace(after)
    assert path.read_text() == after and link.is_symlink() and path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(InputError, match="changed meanwhile"):
        read.replace(after)
    assert sorted(os.listdir(tmp_path)) == ["inventory.yaml", "link.yaml"]


names = st.sampled_from(["a", "gpu-1", "no", "1e5", "null", "gpu.x", "0x1f", "n_1", "y"])
comments = st.sampled_from(["", "# one\n", "  # two\n", "      # three\n", "\n", "   \n"])


@st.composite
def inventories(draw: st.DrawFn) -> tuple[str, list[str]]:
    """The text of an inventory, and the names of its nodes."""
    chosen = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    indent, inner = draw(st.sampled_from(["  ", "    ", " "])), draw(st.sampled_from(["  ", "    "]))
    text = draw(comments) + "nodes:" + draw(st.sampled_from(["\n", "  # them\n"]))
    for name in chosen:
        key = node_line(name, {}).partition(":")[0]
        block = f"{indent}{key}:\n{indent}{inner}address: h\n{indent}{inner}env:\n{indent}{inner}  A: 'x #'\n"
        text += draw(st.sampled_from([f"{indent}{key}: {{address: h}}  # c\n", block])) + draw(comments)
    text += draw(st.sampled_from(["", "defaults:\n  user: ob\n", "# end", "\n\n"]))
    return (text.replace("\n", "\r\n") if draw(st.booleans()) else text), chosen


@given(inventories(), st.sampled_from(["new", "off", "007x"]))
def test_changes_one_node_of_any_inventory_and_no_other_byte(found: tuple[str, list[str]], new: str) -> None:
    text, chosen = found
    fields = {"address": "10.0.0.9", "user": "no", "port": 2222}
    after = edited(text).adding(new, fields)
    added = parse_inventory(after, PATH).nodes[new]
    assert (added.address, added.user, added.port) == ("10.0.0.9", "no", 2222)
    begin = next((at for at, (a, b) in enumerate(zip(text, after, strict=False)) if a != b), len(text))
    assert after[begin + len(after) - len(text) :] == text[begin:]  # one insertion, and nothing else
    assert edited(after).removing(new) in (text, text + "\n", text + "\r\n")
    renamed = edited(text).renaming(chosen[0], new)
    assert edited(renamed).renaming(new, chosen[0]) == edited(text).renaming(chosen[0], chosen[0])
    if len(chosen) > 1:
        assert list(parse_inventory(edited(text).removing(chosen[0]), PATH).nodes) == chosen[1:]
