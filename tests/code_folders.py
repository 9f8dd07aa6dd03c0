"""What the tests of a job's code share: folders that are planted, frozen and compared."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ugro.nodes.code_sync import select_files, take_snapshot

ODD_NAMES = (
    b"with space",
    b" leading and trailing ",
    b"-rf",
    b"#hash",
    b";semicolon",
    b"new\nline",
    b"$(touch x)",
    b"`touch x`; touch x",
    b"'single' \"double\"",
    b"back\\slash",
    b"star*?[a]",
    b"100%",
    b"umlaut-\xc3\xa4",
    b"latin-\xe4",
    b"~tilde",
    b"x" * 200,
)


def plant(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files under a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """Every file of a folder, with what must arrive with it."""
    found: dict[str, tuple[Any, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in [*files, *(one for one in folders if os.path.islink(os.path.join(folder, one)))]:
            path = Path(folder, name)
            status = path.lstat()
            key = str(path.relative_to(root))
            if path.is_symlink():
                found[key] = (os.readlink(path),)
            else:
                found[key] = (path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    return found


def snapshot(work: Path, name: str = "snapshot") -> Path:
    """A snapshot of the working directory as it is now."""
    target = work.parent / name
    take_snapshot(work, select_files(work), target)
    return target
