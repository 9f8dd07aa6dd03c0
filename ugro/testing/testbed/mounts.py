"""What a host sees of this machine's files: the system, our Python and the repository, and otherwise only its own.

Ordinary users cannot reach a Python under /root or a checkout in a private folder. The host therefore gets an empty
folder in the place of every one they could not pass, with what they need bound into it. Nothing real is changed.
"""

from __future__ import annotations

import glob
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from ugro.testing.testbed.etc import shared_folders

REPOSITORY = Path(__file__).resolve().parents[3]
OWN = Path("/run/testbed")
"""Where a host finds its own folder of the bed."""

PRIVATE = {"/tmp": "1777", "/var/tmp": "1777", "/dev/shm": "1777", "/home": "755", "/root": "755"}
PRIVATE |= {"/var/log": "755", "/var/spool": "755"}  # sshd writes of logins there; crontabs and mail
"""Folders that every host has for itself, with their modes."""

GPUS = (
    "/usr/bin/nvidia-smi", "/usr/local/bin/nvidia-smi", "/usr/lib/wsl/lib", "/usr/local/nvidia",
    "/proc/driver", "/dev/nvidia*", "/dev/dri", "/dev/kfd",
)  # fmt: skip
"""Paths that show this machine's GPUs, or open one. A host has none but those that a test installs."""

READ_AND_PASS = 0o005


def setup_script(own: Path, hostname: str, home: str) -> str:
    """The shell script that a host's first process runs in its new namespaces.

    Order matters: what must stay visible is staged under the new /run before its surroundings are covered.
    """
    covers = {Path(folder): mode for folder, mode in PRIVATE.items() if os.path.isdir(folder)}
    needed = set(_needed())
    covers |= {folder: "755" for path in needed for folder in path.parents if _closed(folder)}
    covers |= {path: "755" for path in needed if _closed(path)}
    shown = {part for path in needed for part in ([path] if not _closed(path) else path.iterdir())}
    staged = {path: f"/run/stage/{n}" for n, path in enumerate(shown) if covers.keys() & set(path.parents)}
    lines = [
        "set -eu",
        # A copy of these mounts would keep the networks of other beds alive.
        "umount --recursive --lazy /run/netns",
        "mount -t tmpfs -o mode=755 tmpfs /run",
        f"mkdir -p {OWN} /run/sshd /run/stage/cgroup",
        f"mount --bind {own} {OWN}",
        f"mount -o remount,bind,exec {OWN}",  # a careful machine has /tmp without
        *(_hide(path) for pattern in GPUS for path in glob.glob(pattern)),
        *(_bind(path, stage) for path, stage in staged.items()),
        *(_place(path, staged, covers) for path in sorted(covers.keys() | staged.keys())),
        f"mkdir -p {home} && mount --bind {OWN}/home {home}",
        *show_etc(OWN / "etc"),
        # /sys shows the interfaces of the network namespace it was mounted in.
        "mount --rbind /sys/fs/cgroup /run/stage/cgroup && mount -t sysfs sysfs /sys",
        "mount --move /run/stage/cgroup /sys/fs/cgroup",
        "mount -t devpts -o newinstance,mode=620,ptmxmode=666 devpts /dev/pts",
        "mount --bind /dev/pts/ptmx /dev/ptmx",
        f"echo {hostname} > /proc/sys/kernel/hostname",
        "rm -r /run/stage",
    ]
    return "\n".join(lines)


def show_etc(folder: Path) -> list[str]:
    """The lines of such a script that put a folder of `write_etc` in the place of /etc."""
    shared = [f"mount --bind /etc/{name} {shlex.quote(f'{folder}/{name}')}" for name in shared_folders()]
    return [*shared, f"mount --rbind {shlex.quote(str(folder))} /etc"]


def _needed() -> Iterator[Path]:
    """The Python that runs the tests (a chain of links, maybe), what it imports, and the repository."""
    for name in (sys.base_prefix, sys.prefix, Path(sys.executable).resolve().parents[1], REPOSITORY):
        yield from (Path(name), Path(name).resolve())


def _hide(path: str) -> str:
    if os.path.isdir(path):
        return f"mount -t tmpfs tmpfs {path}"
    return f"mount --bind /dev/null {path}"


def _closed(folder: Path) -> bool:
    return folder.stat().st_mode & READ_AND_PASS != READ_AND_PASS


def _bind(path: Path, stage: str) -> str:
    make = "mkdir" if path.is_dir() else "touch"
    return f"{make} {stage} && mount --rbind {shlex.quote(str(path))} {stage}"


def _place(path: Path, staged: dict[Path, str], covers: dict[Path, str]) -> str:
    target = shlex.quote(str(path))
    if path in covers:
        return f"mkdir -p {target} && mount -t tmpfs -o mode={covers[path]} tmpfs {target}"
    make = "mkdir -p" if path.is_dir() else "touch"
    return f"{make} {target} && mount --move {staged[path]} {target}"
