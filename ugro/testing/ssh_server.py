"""An SSH server on loopback that runs commands and lets in whom a test says, with what it notes of who came."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncssh

from ugro.nodes import children


def new_key(path: Path, kind: str = "ssh-ed25519", passphrase: str | None = None, **more: Any) -> asyncssh.SSHKey:
    """A private key in a file that only its owner reads, and its public half beside it."""
    key = asyncssh.generate_private_key(kind, **more)
    path.write_bytes(key.export_private_key())
    path.chmod(0o600)
    if passphrase:
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", passphrase, "-f", path], check=True, capture_output=True)
    path.with_name(f"{path.name}.pub").write_bytes(key.export_public_key())
    return key


class ScriptedServer:
    """A server with a host key and one key that it lets in; more keys go into `allowed`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.host_key = new_key(folder / f"{name}.host")
        self.key = new_key(folder / name)
        self.allowed = {self.key.public_data}
        self.users: list[str] = []
        self.environments: list[dict[str, str]] = []
        self.forwards: list[tuple[str, int]] = []
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.port = 0

    @asynccontextmanager
    async def listen(self, **options: Any) -> AsyncIterator[ScriptedServer]:
        """While this lasts it answers at `port`; `options` are those of `asyncssh.listen`."""
        outer = self

        class Door(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                outer.connections.append(conn)

            def begin_auth(self, username: str) -> bool:
                outer.users.append(username)
                return True

            def public_key_auth_supported(self) -> bool:
                return True

            def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
                return key.public_data in outer.allowed

            def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
                outer.forwards.append((dest_host, dest_port))
                return True

        options = {"server_host_keys": [self.host_key], "server_factory": Door} | options
        async with await asyncssh.listen("127.0.0.1", 0, process_factory=self._run, encoding=None, **options) as door:
            self.port = door.get_port()
            try:
                yield self
            finally:
                for connection in self.connections:
                    connection.abort()
                    await connection.wait_closed()

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self.environments.append(dict(process.env))
        given = await process.stdin.read()
        status, stdout, stderr = await children.output("sh", "-c", process.command or "", data=given)
        process.stdout.write(stdout)
        process.stderr.write(stderr)
        process.exit(status or 0)

    def known(self, name: str = "127.0.0.1") -> str:
        """Its line of known_hosts."""
        return f"[{name}]:{self.port} {self.public}\n"

    @property
    def public(self) -> str:
        """Its host key, as known_hosts and authorized_keys write one."""
        return self.host_key.export_public_key().decode().strip()
