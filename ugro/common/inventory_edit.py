"""Edit an inventory as text: one node's lines change, every other byte stays.

A YAML library would write the whole file again, with its own indent and the comments elsewhere. Here a parser only
reports where entries begin and end. The result is read by the strict loader and compared with the old nodes before it
replaces the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import InputError, InventoryError
from ugro.common.files import write_atomic
from ugro.common.inventory_file import parse_inventory

Fields = Mapping[str, str | int | bool]
"""The keys of a node as its line has them."""

STEP = 2
"""Spaces of an indent where the file shows none."""


class NotEditable(InventoryError):
    """The text is written in a way that is not edited: the user has to paste or remove the lines."""


def node_line(name: str, fields: Fields) -> str:
    """Return a node's entry in one line, which every reader of YAML takes for the same text: `no` stands in quotes."""
    return f"{_scalar(name)}: {_flow(fields)}"


def _flow(fields: Fields) -> str:
    text = yaml.safe_dump(dict(fields), default_flow_style=True, sort_keys=False, width=100_000, allow_unicode=True)
    return text.strip()


def _scalar(value: str | int | bool) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=100_000, allow_unicode=True)
    return text.strip().removesuffix("...").strip()


@dataclass(frozen=True)
class _Entry:
    """The span of a node: from its key to the last character of its value, as indices into the text."""

    name: str
    key_begin: int
    key_end: int
    end: int
    column: int
    inner: int | None
    """Column of its own keys where they stand in lines of their own; None: the entry is one line."""


@dataclass(frozen=True)
class _Nodes:
    """The entries of `nodes:`; `after_key` is the end of `nodes:` itself."""

    entries: tuple[_Entry, ...]
    after_key: int
    column: int
    flow: bool


def with_node(text: str, name: str, fields: Fields) -> str:
    """Return the text with one more node after the last one, in its indent and style.

    Raises:
        NotEditable: `nodes:` is an anchor, an alias or a mapping in braces, or cannot be found.
    """
    found = _nodes(text)
    if found.flow and found.entries:
        raise NotEditable("its nodes stand between braces")
    line_end = "\r\n" if "\r\n" in text else "\n"
    if not found.entries:
        if found.flow:
            raise NotEditable("its nodes stand between braces")
        at, indent = _end_of_line(text, found.after_key), found.column + STEP
        lines = [" " * indent + node_line(name, fields)]
    else:
        last = found.entries[-1]
        at, indent = _end_of_entry(text, last), last.column
        if last.inner is None:
            lines = [" " * indent + node_line(name, fields)]
        else:
            keys = [f"{' ' * last.inner}{_scalar(key)}: {_scalar(value)}" for key, value in fields.items()]
            lines = [f"{' ' * indent}{_scalar(name)}:", *keys]
    before, after = text[:at], text[at:]
    added = line_end.join(lines)
    if before.endswith("\n"):
        return before + added + line_end + after
    return before + line_end + added + after


def without_node(text: str, name: str) -> str:
    """Return the text without a node's lines, and the comments inside them.

    Raises:
        NotEditable: it has no lines of its own.
    """
    found = _nodes(text)
    entry = next((entry for entry in found.entries if entry.name == name), None)
    if entry is None or found.flow:
        raise NotEditable("its nodes stand between braces" if found.flow else f"{name} has no lines of its own")
    begin = text.rfind("\n", 0, entry.key_begin) + 1
    if text[begin : entry.key_begin].strip():
        raise NotEditable(f"{name} shares its line")
    return text[:begin] + text[_end_of_entry(text, entry) :]


def with_new_name(text: str, old: str, new: str) -> str:
    """Return the text with another name for a node.

    Raises:
        NotEditable: its name does not stand there.
    """
    entry = next((entry for entry in _nodes(text).entries if entry.name == old), None)
    if entry is None:
        raise NotEditable(f"{old} has no lines of its own")
    return text[: entry.key_begin] + _scalar(new) + text[entry.key_end :]


def _nodes(text: str) -> _Nodes:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        marks = [token for token in yaml.scan(text) if isinstance(token, yaml.AnchorToken | yaml.AliasToken)]
    except yaml.YAMLError as error:
        raise NotEditable(f"it is not valid YAML: {error.__class__.__name__}") from None
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    at, (key, value) = next(
        ((at, pair) for at, pair in enumerate(pairs) if pair[0].value == "nodes"), (0, (None, None))
    )
    if key is None or value is None:
        raise NotEditable("it has no `nodes:`")
    until = pairs[at + 1][0].start_mark.index if at + 1 < len(pairs) else len(text)
    if any(key.start_mark.index <= token.start_mark.index < until for token in marks):
        raise NotEditable("its nodes use an anchor or an alias")
    column = key.start_mark.column
    if isinstance(value, yaml.ScalarNode) and not value.value.strip():
        return _Nodes((), value.end_mark.index, column, flow=False)
    if not isinstance(value, yaml.MappingNode):
        raise NotEditable("its `nodes:` is no mapping")
    entries = tuple(_entry(*pair) for pair in value.value)
    return _Nodes(entries, value.start_mark.index, column, flow=bool(value.flow_style))


def _entry(key: yaml.Node, value: yaml.Node) -> _Entry:
    block = isinstance(value, yaml.MappingNode) and not value.flow_style and value.value
    inner = value.value[0][0].start_mark.column if block else None
    begin, end = key.start_mark, key.end_mark
    return _Entry(str(key.value), begin.index, end.index, _last(value), begin.column, inner)


def _last(node: yaml.Node) -> int:
    """The end of what stands last in a value. A block's own end mark is where the next thing begins."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _last(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _last(node.value[-1])
    return int(node.end_mark.index)


def _end_of_line(text: str, at: int) -> int:
    """The index after the line that a place is in; after the last character where no newline follows."""
    if at > 0 and text[at - 1] == "\n":
        return at
    newline = text.find("\n", at)
    return len(text) if newline < 0 else newline + 1


def _end_of_entry(text: str, entry: _Entry) -> int:
    """The index after an entry's last line, and after the comments that are indented deeper than the entry."""
    at = end = _end_of_line(text, entry.end)
    while at < len(text):
        after = _end_of_line(text, at + 1) if text[at] != "\n" else at + 1
        line = text[at:after]
        words = line.strip()
        if words and not (words.startswith("#") and len(line) - len(line.lstrip(" ")) > entry.column):
            break
        at = after
        end = after if words else end
    return end


# --- the file ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InventoryText:
    """An inventory file as it was read: the bytes that are compared before it is replaced."""

    path: Path
    data: bytes

    @property
    def text(self) -> str:
        """The text, with its line ends and its byte order mark as they are."""
        return self.data.decode("utf-8")

    @property
    def nodes(self) -> dict[str, NodeConfig]:
        """The nodes it has."""
        return parse_inventory(self.plain, self.path).nodes

    @property
    def plain(self) -> str:
        """The text without a byte order mark, as the parser wants it."""
        return self.text.removeprefix("\ufeff")

    def adding(self, name: str, fields: Fields) -> str:
        """Return the text with one more node.

        Raises:
            InventoryError: it cannot be edited; the hint is the line to paste.
        """
        by_hand = f"paste this below `nodes:` there:   {node_line(name, fields)}"
        return self._checked(lambda text: with_node(text, name, fields), by_hand, added=name)

    def removing(self, name: str) -> str:
        """Return the text without a node.

        Raises:
            InventoryError: it cannot be edited, or no node would be left.
        """
        if set(self.nodes) == {name}:
            raise InventoryError(f"{name} is the only node in {self.path}", "an inventory has at least one node")
        return self._checked(lambda text: without_node(text, name), f"remove {name} there by hand", removed=name)

    def renaming(self, old: str, new: str) -> str:
        """Return the text with another name for a node.

        Raises:
            InventoryError: it cannot be edited.
        """
        by_hand = f"write {new} for {old} there by hand"
        return self._checked(lambda text: with_new_name(text, old, new), by_hand, added=new, removed=old)

    def _checked(self, edit: Callable[[str], str], by_hand: str, added: str = "", removed: str = "") -> str:
        before = self.nodes
        try:
            after = edit(self.text)
            now = parse_inventory(after.removeprefix("\ufeff"), self.path).nodes
        except InventoryError as error:
            raise InventoryError(f"{self.path} is not edited: {error.message}", by_hand) from None
        kept = {name: config for name, config in before.items() if name != removed}
        if {name: config for name, config in now.items() if name != added} != kept or (added and added not in now):
            raise InventoryError(f"{self.path} is not edited: other nodes would change with it", by_hand)
        return after

    def replace(self, text: str) -> None:
        """Write the new text, unless the file was changed since it was read. Its mode stays; a link stays a link.

        Raises:
            InputError: it was changed meanwhile, or cannot be written.
        """
        path = self.path.resolve()
        try:
            if path.read_bytes() != self.data:
                raise InputError(f"{self.path} was changed meanwhile; it is as it was", "run the command again")
            write_atomic(path, text, os.stat(path).st_mode & 0o7777)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from None


def read_inventory_text(inventory: Inventory) -> InventoryText:
    """Read the file of an inventory, to edit it.

    Raises:
        InventoryError: it cannot be read.
    """
    try:
        return InventoryText(inventory.path, inventory.path.read_bytes())
    except OSError as error:
        raise InventoryError(f"{inventory.path}: cannot be read: {error.strerror}") from None
