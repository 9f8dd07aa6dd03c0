"""What the terminal of this command can show."""

from __future__ import annotations

import os


def is_dumb() -> bool:
    """Return whether the terminal knows no escape sequences, so that nothing can be drawn there."""
    return os.environ.get("TERM") in ("dumb", "unknown")


def is_plain() -> bool:
    """Return whether text is printed without escape sequences, as the user (NO_COLOR) or the terminal wants it."""
    return bool(os.environ.get("NO_COLOR")) or is_dumb()


def colour() -> bool | None:
    """Return what click takes: no colour at all, or (None) where the stream is a terminal."""
    return False if is_plain() else None
