"""Where a checkpoint is."""

from __future__ import annotations

from ugro.common.models.value import Value


class Place(Value):
    """The place of a checkpoint."""

    node: str
    path: str
    """Absolute path; of kind `ranks` the folder of its files."""
    files: tuple[str, ...] = ()
    """Its files in that folder, of kind `ranks`."""
