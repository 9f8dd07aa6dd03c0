"""Reads an inventory file, and reports its mistakes with file, line and field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ugro.common.config import Inventory, MetricsSettings, NodeConfig, WebSettings
from ugro.common.errors import InventoryError
from ugro.common.fields import is_given
from ugro.common.locations import INVENTORY, ugro_home
from ugro.common.mistakes import MAPPING, Location, dotted, shown
from ugro.common.yaml_files import Keys, describe_in_file, line_of, parse_yaml, read_yaml, stands

_KEYS = (*NodeConfig.model_fields, *WebSettings.model_fields, *MetricsSettings.model_fields)
_SETTINGS = ("dashboard", "metrics")
"""Keys beside the nodes that have keys of their own."""


def load_inventory(path: Path) -> Inventory:
    """Read and check an inventory.

    Raises:
        InventoryError: with file, line, field, what was found and what is expected.
    """
    if not path.exists():
        usual = path == ugro_home() / INVENTORY and not Path(INVENTORY).exists()
        places = f"./{INVENTORY} or {path}" if usual else str(path)
        raise InventoryError(
            f"there is no inventory at {places}", "write one with `ugro init`, or name it: --inventory FILE"
        )
    return _inventory(path, read_yaml(path, InventoryError))


def parse_inventory(text: str, path: Path) -> Inventory:
    """Parse an inventory from the text that will be in its file.

    Raises:
        InventoryError: as `load_inventory` does.
    """
    return _inventory(path, parse_yaml(text, path, InventoryError))


def parse_with_node(text: str, path: Path, name: str, fields: Mapping[str, object]) -> Inventory:
    """Parse an inventory as if it had one more node with these keys.

    Raises:
        InventoryError: as `load_inventory` does; also where a key of the node makes no sense.
    """
    document, node = parse_yaml(text, path, InventoryError), Keys()
    for key, value in fields.items():
        node.put(key, str(value), 0)
    if not isinstance(document.get("nodes"), Keys):
        document.put("nodes", Keys(), 0)
    document["nodes"].put(name, node, 0)
    return _inventory(path, document)


def _inventory(path: Path, document: Keys) -> Inventory:
    if unknown := [key for key in document if key not in ("defaults", "nodes", *_SETTINGS)]:
        line, expected = document.lines[unknown[0]], "'defaults', 'nodes', 'dashboard' or 'metrics' is expected"
        raise InventoryError(f"{path}:{line}: {unknown[0]}: unknown key; {expected}")
    defaults = _node_keys(path, document, "defaults")
    script = {"script": defaults.pop("script")} if "script" in defaults else {}
    nodes: dict[str, Any] = {}
    for name in _mapping(path, document, "nodes"):
        own = _node_keys(path, document, "nodes", name)
        nodes[name] = {**defaults, **own, "env": {**defaults["env"], **own["env"]}, "name": str(name)}

    def place(where: Location) -> Location:
        """Return the place in the file: inherited values are under `defaults:`, a node's name is its key."""
        if where and where[0] in _SETTINGS:
            return where
        if where[:1] != ("nodes",):
            return ("defaults", *where)
        inherited = ("defaults", *where[2:])
        if len(where) > 2 and not stands(document, where) and stands(document, inherited):
            return inherited
        return where[:2] if where[2:] == ("name",) else where

    try:
        settings = {name: _mapping(path, document, name) for name in _SETTINGS}
        return Inventory.model_validate({"nodes": nodes, "path": path} | script | settings)
    except ValidationError as error:
        raise InventoryError(describe_in_file(error, path, document, {key: key for key in _KEYS}, place)) from None


def _node_keys(path: Path, document: Keys, *where: str) -> dict[str, Any]:
    keys = dict(_mapping(path, document, *where))
    if "name" in keys:
        at = (*where, "name")
        raise InventoryError(f"{path}:{line_of(document, at)}: {dotted(at)}: unknown key; a node's name is its own key")
    return {**keys, "env": _mapping(path, document, *where, "env")}


def _mapping(path: Path, document: Keys, *where: str) -> dict[str, Any]:
    """Return the mapping at a place; an empty one if there is no such place."""
    value: Any = document
    for key in where:
        value = value.get(key, {}) if isinstance(value, dict) else {}
    if isinstance(value, dict) or not is_given(value):
        return value if isinstance(value, dict) else {}
    raise InventoryError(f"{path}:{line_of(document, where)}: {dotted(where)}: found {shown(value)}: {MAPPING}")
