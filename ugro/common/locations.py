"""Where the state directory and the inventory are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

INVENTORY = "inventory.yaml"


def inventory_path(option: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the first of --inventory, $UGRO_INVENTORY, ./inventory.yaml and $UGRO_HOME/inventory.yaml."""
    return chosen_inventory(option, environ)[0]


def chosen_inventory(option: str | None, environ: Mapping[str, str] = os.environ) -> tuple[Path, str]:
    """Return the inventory that counts and its source; an empty source for the two default places."""
    named = environ.get("UGRO_INVENTORY")
    if chosen := option or named:
        return Path(chosen).expanduser(), "--inventory" if option else "$UGRO_INVENTORY"
    here = Path(INVENTORY)
    if here.exists():
        return here, ""
    return ugro_home(environ) / INVENTORY, "$UGRO_HOME" if environ.get("UGRO_HOME") else ""


def ugro_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the master's state directory."""
    return Path(environ.get("UGRO_HOME") or "~/.ugro").expanduser()
