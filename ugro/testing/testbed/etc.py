"""What stands in a host's /etc: users and settings of its own, and of this machine's only what programs start with.

A copy of this machine's files would bring in its users (the first entry of a name wins), its directory services, its
shells' greetings and its rules about who may log in.
"""

from __future__ import annotations

import itertools
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MACHINE = Path("/etc")
FROM_THE_MACHINE = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "protocols", "services", "ssl")
"""Where programs and libraries are; the names of ports; the settings of OpenSSL, without which some builds complain."""

PASSWORD = "ugro"
PASSWORD_HASH = "$6$testbed$IId6226C4Qr0CUqXnNe/10caAMwL5aoplp.rFi.jkBq10l7GYfS9fS25NnpBsaES33q397EWudX7XaBuz4Rk90"

FIRST_UID = 61_001
"""Neither people nor services get uids from here on: https://systemd.io/UIDS-GIDS. A container maps them still."""

PASSWD = """\
root:x:0:0::/root:/bin/sh
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin
"""

GROUP = """\
root:x:0:
tty:x:5:
nogroup:x:65534:
"""

NAMES_AND_ADDRESSES = """\
passwd: files
group: files
shadow: files
hosts: files
networks: files
protocols: files
services: files
"""


class User(NamedTuple):
    """A host's user. The uid is free on this machine; the name is known on the host alone."""

    name: str
    uid: int

    @property
    def home(self) -> str:
        return f"/home/{self.name}"


def free_uids() -> Iterator[int]:
    """Yield uids that are free on this machine, whichever directory service its users come from."""
    return (uid for uid in itertools.count(FIRST_UID) if not _known(uid))


def write_etc(folder: Path, hostname: str, user: User) -> None:
    """Fill the folder that a host sees as its /etc; `shared_folders` are to be mounted into it."""
    folder.mkdir()
    for name in FROM_THE_MACHINE:
        if (MACHINE / name).is_dir():
            (folder / name).mkdir()
        elif (MACHINE / name).exists():
            shutil.copyfile(MACHINE / name, folder / name)
    (folder / "group").write_text(f"{GROUP}{user.name}:x:{user.uid}:\n")
    (folder / "shadow").write_text(f"root:*:19000::::::\n{user.name}:{PASSWORD_HASH}:19000::::::\n")
    (folder / "shadow").chmod(0o600)
    (folder / "nsswitch.conf").write_text(NAMES_AND_ADDRESSES)
    (folder / "hostname").write_text(f"{hostname}\n")
    # The second line is Debian's, and a trap for a program that looks up the host's own name.
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {hostname}\n")
    (folder / "mtab").symlink_to("../proc/self/mounts")
    write_passwd(folder, user, "/bin/bash")


def write_passwd(folder: Path, user: User, shell: str) -> None:
    """Write who is known on the host, and the user's login shell."""
    (folder / "passwd").write_text(f"{PASSWD}{user.name}:x:{user.uid}:{user.uid}::{user.home}:{shell}\n")


def shared_folders() -> list[str]:
    """The folders of this machine's /etc that a host sees in its own."""
    return [name for name in FROM_THE_MACHINE if (MACHINE / name).is_dir()]


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
