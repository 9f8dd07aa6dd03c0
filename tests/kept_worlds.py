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
        shutil.copytree(folder, self.home, symlinks=True, dirs_exist_ok=True)
        return job

    def keep(self, key: Hashable, job: Job) -> Job:
        """Keep the home as it is now."""
        folder = self._root / f"kept-{next(self._numbers)}"
        shutil.copytree(self.home, folder, symlinks=True, ignore=_no_files)
        self._kept[key] = folder, job
        return job


def _no_files(folder: str, names: list[str]) -> list[str]:
    """Sockets and pipes belong to the processes that made them."""
    paths = ((name, Path(folder, name)) for name in names)
    return [name for name, path in paths if not (path.is_symlink() or path.is_dir() or path.is_file())]
