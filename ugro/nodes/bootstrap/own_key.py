"""The key that is installed on a machine: the one that UGRO will log in with."""

from __future__ import annotations

import asyncio
import base64
import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from ugro.common.config import NodeConfig
from ugro.common.errors import InputError, KeyUnusable
from ugro.nodes.transport.credentials import gather_credentials
from ugro.nodes.transport.login import ENCRYPTED_HINT
from ugro.nodes.transport.ssh_config import SshSettings

NEW_KEY = "~/.ssh/id_ed25519"
"""One of the files that ssh offers without being asked."""


@dataclass(frozen=True)
class OwnKey:
    """A key of the user. `blob` is its public half in base64.

    `path` is the file of the private half; None: only the agent has it.
    """

    algorithm: str
    blob: str
    comment: str
    path: str | None

    @property
    def line(self) -> str:
        """Its line of authorized_keys."""
        return f"{self.algorithm} {self.blob} {self.comment}"


async def find_key(node: NodeConfig, target: SshSettings) -> OwnKey | None:
    """Return the key that a login at this machine offers; a file rather than the agent, which is not there at night.

    None: the user has no key, so one can be made.

    Raises:
        KeyUnusable: the keys that there are cannot be used.
    """
    found = await gather_credentials(target, node.identity_file)
    found.close()
    files = {path: os.path.expanduser(path) for path in found.looked_at}
    pairs = sorted(found.pairs, key=lambda pair: pair.get_comment(errors="replace") not in files)
    if pairs:
        name = pairs[0].get_comment(errors="replace")
        return _key(pairs[0].key_public_data, str(name) if name in files else None)
    if node.identity_file or found.encrypted or found.problems:
        why = "; ".join([*found.encrypted, *found.problems]) or f"{node.identity_file} is not there"
        hint = ENCRYPTED_HINT if found.encrypted else "name another key: --key FILE"
        raise KeyUnusable(node.name, f"no key can be installed: {why}", hint)
    return None


async def make_key() -> OwnKey:
    """Make an Ed25519 key without a passphrase, readable by the user alone, where ssh looks for one.

    Raises:
        InputError: it cannot be written, or a file is there.
    """
    return await asyncio.to_thread(_make, Path(NEW_KEY).expanduser())


def _make(path: Path) -> OwnKey:
    public = path.with_name(f"{path.name}.pub")
    key = asyncssh.generate_private_key("ssh-ed25519", comment=_comment())
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.export_private_key("openssh"))
        public.write_bytes(key.export_public_key("openssh"))
    except OSError as error:
        raise InputError(f"{path}: a new key cannot be written: {error.strerror}", "name a key: --key FILE") from None
    return _key(key.public_data, str(path))


def _key(public: bytes, path: str | None) -> OwnKey:
    size = int.from_bytes(public[:4], "big")
    return OwnKey(public[4 : 4 + size].decode("ascii"), base64.b64encode(public).decode(), _comment(), path)


def _comment() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}".replace(" ", "-")
