"""Reads the text of a file that the user wrote, up to a size."""

from __future__ import annotations

from pathlib import Path

from ugro.common.errors import UgroError

LARGEST = 1024 * 1024
"""Bytes of such a file at most: a list of ten thousand nodes has fewer."""


def read_written(path: Path, kind: type[UgroError], hint: str = "") -> str:
    """Return the text of a file, without a byte order mark. `hint` says what helps whatever is wrong with it.

    Raises:
        UgroError, of that kind: it cannot be read, is larger, or is no UTF-8; the message names the file, and the line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise kind(f"{path}: larger than {LARGEST // 1024} KiB", hint or "is it the file you mean?")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise kind(f"{path}:{line}: not UTF-8 text (byte {error.start})", hint) from None
    except OSError as error:
        raise kind(f"{path}: cannot be read: {error.strerror}", hint) from None
