"""Say which sandbox the variables of this shell point to. Cheap to import: commands that fail ask it."""

from __future__ import annotations

import os
from pathlib import Path


def folder_of_shell() -> Path | None:
    """Return the folder of the sandbox that this shell uses."""
    directory = os.environ.get("UGRO_SANDBOX_DIR")
    return Path(directory).expanduser().resolve() if directory else None


def is_sandbox(inventory: Path) -> bool:
    """Whether an inventory is that of the sandbox which this shell uses."""
    folder = folder_of_shell()
    if folder is None:
        return False
    from ugro.sandbox.files import Files  # here, since hardly a shell uses one

    return inventory.resolve() == Files(folder).inventory
