"""Strict host keys: unknown and changed are told apart, and nothing is ever trusted without a person's word."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import Any

import asyncssh

from ugro.common.config import NodeConfig
from ugro.common.errors import HostKeyChanged, HostKeyUnknown, KeyUnusable, NodeError

DEFAULT_KNOWN_HOSTS = "~/.ssh/known_hosts"
KEY_ALGORITHMS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512")


class HostKeyCheck:
    """Remembers what the node offered and what was on record, so that a refusal can say which of the two it is."""

    def __init__(self, node: NodeConfig) -> None:
        self._node = node
        self._files: list[str] = []
        self._recorded: list[asyncssh.SSHKey] = []
        self._offered: asyncssh.SSHKey | None = None
        self._connection: asyncssh.SSHClientConnection | None = None

    def known_hosts(self, options: asyncssh.SSHClientConnectionOptions) -> Any:
        """A lookup for asyncssh's `known_hosts`. `UserKnownHostsFile none` never means no check.

        Raises:
            KeyUnusable: a known_hosts file cannot be read or has a line that makes no sense.
        """
        self._files = known_hosts_files(options)
        hosts = read_known_hosts(self._node.name, self._files)

        def lookup(host: str, address: str, port: int | None) -> Any:
            # With HostKeyAlias the alias alone counts, as for OpenSSH, not the address behind it.
            found = hosts.match(host, "" if options.host_key_alias else address, port)
            self._recorded = list(found[0])
            return found

        return lookup

    def client(self) -> asyncssh.SSHClient:
        """The client that notes the connection, and the key which is about to be refused."""
        check = self

        class NotingClient(asyncssh.SSHClient):
            def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
                check._connection = conn

            def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
                check._offered = key
                return False

        return NotingClient()

    @property
    def greeted(self) -> bool:
        """Whether the node's sshd, or the jump host's, said its version: one that turns us away closes before it."""
        return self._connection is not None and self._connection.get_extra_info("server_version") is not None

    async def offers_another_kind(self, options: asyncssh.SSHClientConnectionOptions) -> bool:
        """Whether a handshake broke because none of the recorded kinds of key is offered: a changed key too."""
        if not self._recorded:
            return False
        try:
            offered = await fetch_host_keys(self._node, options)
        except (OSError, asyncssh.Error):
            return False
        self._offered = offered[0]
        return not set(offered) & set(self._recorded)

    def error(self, options: asyncssh.SSHClientConnectionOptions) -> NodeError:
        """Why the host key was refused, with fingerprints and the command to run."""
        name = self._node.name
        if self._offered is None and isinstance(options.tunnel, str):
            jump = options.tunnel
            return HostKeyUnknown(
                name,
                f"the host key of the jump host {jump} is not known or has changed",
                f"log in there once by hand and look at its fingerprint: ssh {jump}",
            )
        offered = self._offered.get_fingerprint() if self._offered else "a key of another kind than recorded"
        if not self._recorded:
            return HostKeyUnknown(
                name,
                f"the host key is not known yet ({offered})",
                f"compare it with the node's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there), "
                f"then: ugro trust {name}",
            )
        recorded = ", ".join(dict.fromkeys(key.get_fingerprint() for key in self._recorded))
        return HostKeyChanged(
            name,
            f"THE HOST KEY HAS CHANGED: offered {offered}, on record {recorded} in {', '.join(self._files)}",
            f"if the machine was reinstalled: ugro trust {name} --replace; if not, somebody may be in between",
        )


def known_hosts_files(options: asyncssh.SSHClientConnectionOptions) -> list[str]:
    """The known_hosts files that count for these options and exist."""
    configured = options.known_hosts
    names = [str(name) for name in configured] if isinstance(configured, (list, tuple)) and configured else []
    names = names or [DEFAULT_KNOWN_HOSTS]
    return [path for name in names if os.path.exists(path := os.path.expanduser(name))]


def read_known_hosts(node: str, files: list[str]) -> asyncssh.SSHKnownHosts:
    """The records of several known_hosts files.

    Raises:
        KeyUnusable: one cannot be read, or has a line that makes no sense.
    """
    try:
        return asyncssh.read_known_hosts(files)
    except (OSError, ValueError) as error:
        detail = error.strerror if isinstance(error, OSError) else error
        raise KeyUnusable(node, f"{', '.join(files)} cannot be used: {detail}", "mend the file") from None


def writable_known_hosts(options: asyncssh.SSHClientConnectionOptions) -> Path:
    """The file a newly trusted key is written to: the first UserKnownHostsFile, or the default."""
    configured = options.known_hosts
    first = configured[0] if isinstance(configured, (list, tuple)) and configured else DEFAULT_KNOWN_HOSTS
    return Path(os.path.expanduser(str(first)))


def known_hosts_name(node: NodeConfig, options: asyncssh.SSHClientConnectionOptions) -> str:
    """The name a node has in known_hosts: its alias or address, in brackets with a port other than 22."""
    name = options.host_key_alias or options.host or node.address
    return f"[{name}]:{options.port}" if options.port and options.port != 22 else name


def recorded_keys(
    files: list[str], node: NodeConfig, options: asyncssh.SSHClientConnectionOptions
) -> list[asyncssh.SSHKey]:
    """The keys on record for a node, under the name and port it is reached at."""
    host = options.host_key_alias or options.host or node.address
    port = options.port if options.port != 22 else None
    return list(read_known_hosts(node.name, files).match(host, "", port)[0])


async def fetch_host_keys(node: NodeConfig, options: asyncssh.SSHClientConnectionOptions) -> list[asyncssh.SSHKey]:
    """Every host key the node offers, one per kind. Fetching is not trusting.

    Raises:
        OSError, asyncssh.Error: the node cannot be reached.
    """
    keys: list[asyncssh.SSHKey] = []
    refused: Exception = asyncssh.KeyExchangeFailed("no kind of host key in common")
    for algorithm in KEY_ALGORITHMS:
        fetching = asyncssh.get_server_host_key(
            options.host or node.address, options=options, server_host_key_algs=[algorithm]
        )
        # A server without a key of that kind says so, or just hangs up.
        try:
            key = await asyncio.wait_for(fetching, 15)
        except (asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost, ConnectionResetError) as error:
            refused = error
        else:
            keys += [key] if key else []
    if not keys:
        raise refused
    return keys


def record_host_keys(path: Path, name: str, keys: list[asyncssh.SSHKey], replace: bool) -> None:
    """Add lines to a known_hosts file; with `replace`, the plain lines of that name go first.

    Raises:
        KeyUnusable: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if replace:
            lines = [kept for line in lines if (kept := _without(line, name)) is not None]
        lines += [f"{name} {key.export_public_key('openssh').decode().strip()}" for key in keys]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise KeyUnusable(shlex.quote(name), f"{path} cannot be written: {error.strerror}") from None


def _without(line: str, name: str) -> str | None:
    """A known_hosts line without that name, or None when nothing of it remains. Markers and comments stay."""
    hosts, space, rest = line.partition(" ")
    if not space or hosts.startswith(("#", "@", "|")):
        return line if not _hashed_match(line, name) else None
    remaining = [host for host in hosts.split(",") if host != name]
    return " ".join((",".join(remaining), rest)) if remaining else None


def _hashed_match(line: str, name: str) -> bool:
    """Whether a hashed line (`|1|…`) stands for that name."""
    if not line.startswith("|"):
        return False
    return bool(asyncssh.import_known_hosts(line + "\n").match(name, "", None)[0])
