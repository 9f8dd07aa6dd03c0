"""Homes in which a job has ended, for every test that begins with the same one: it is run once, and laid there again.

Records name the folders of their nodes, so all these tests have their home in one place.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Hashable
from pathlib import Path

from ugro.common.models.job import Job


class KeptWorlds:
    """Copies of the home of a test, by what the test did there and the files that it did it with."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        """Where the home of a test has to be."""
        self._root, self._numbers = root, itertools.count()
        self._kept: dict[Hashable, tuple[Path, Job]] = {}

    def key(self, *about: object) -> Hashable:
        """Name what is about to be done here."""
        files = hashlib.sha256()
        for folder, names, plain in os.walk(self.home):
            names.sort()
            for path in (Path(folder, name) for name in sorted(plain)):
                if path.is_file():  # and no socket of a resident
                    content = path.read_bytes()
                    files.update(f"{path} {len(content)}\n".encode() + content)
        return repr(about), files.digest()

    def recall(self, key: Hashable) -> Job | None:
        """Lay a home there again, if it is kept. Returns the job that ended in it."""
        if key not in self._kept:
            return None
        folder, job = self._kept[key]
        shutil.copytree(folder, self.home, symlinks=True, dirs_exist_ok=True, copy_function=_copy)
        return job

    def keep(self, key: Hashable, job: Job) -> Job:
        """Keep the home as it is now."""
        folder = self._root / f"kept-{next(self._numbers)}"
        shutil.copytree(self.home, folder, symlinks=True, ignore=_sockets, copy_function=_copy)
        self._kept[key] = folder, job
        return job


def _sockets(folder: str, names: list[str]) -> list[str]:
    """A socket belongs to the process that made it."""
    return [name for name in names if Path(folder, name).is_socket()]


def _copy(source: str, target: str) -> str:
    """A job may leave a pipe; to open it would wait for its other end."""
    if Path(source).is_fifo():
        os.mkfifo(target)
        return target
    return shutil.copy2(source, target)
