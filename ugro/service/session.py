"""Chooses who answers a command: the resident controller where one runs, else this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ugro.common.errors import UgroError
from ugro.common.locations import inventory_path, ugro_home
from ugro.service.backend import Backend
from ugro.service.wire import SOCKET

if TYPE_CHECKING:
    from ugro.service.local import Local


def open_local(inventory: str | None, log_level: str) -> Local:
    """Return the backend of this process, which logs from this level on."""
    # Here, since their import takes long, and who asks over the socket needs nothing of it.
    from ugro.common import log
    from ugro.service.context import Context
    from ugro.service.local import Local

    context = Context(inventory)
    log.start(context.store.home, log_level, context.store.mask)
    return Local(context)


def find_resident(inventory: str | None, say: Callable[[str], None]) -> Backend | None:
    """Return the resident controller's backend where one runs and can be used. `say` hears why it cannot.

    Then the backend of this process will do: both act under the same locks.
    """
    path = socket_path()
    if path.exists():
        from ugro.service.resident_socket import NoResident, ResidentSocket

        try:
            return ResidentSocket(path, _inventory(inventory))
        except NoResident as reason:
            say(f"{reason}; this command acts by itself")
    elif os.environ.get("UGRO_SOCKET"):
        say(f"no resident controller listens at {path}, which $UGRO_SOCKET names; this command acts by itself")
    return None


def socket_path() -> Path:
    """Return where a resident controller listens: `$UGRO_SOCKET`, else `ugro.sock` in the state directory."""
    return Path(os.environ.get("UGRO_SOCKET") or ugro_home() / SOCKET)


def _inventory(option: str | None) -> Path | None:
    try:
        return inventory_path(option).resolve()
    except UgroError:  # it is missing: what the command needs it for says so
        return None
