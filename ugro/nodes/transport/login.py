"""Records what happened while a connection logged in, and explains it to the user."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from ugro.common.errors import AuthenticationFailed, KeyUnusable, NodeError
from ugro.common.text import printable
from ugro.nodes.transport.credentials import Credentials, pair_name
from ugro.nodes.transport.ssh_config import SshSettings
from ugro.nodes.transport.ssh_options import OptionUse, not_honoured

ENCRYPTED_HINT = "load it into ssh-agent (ssh-add), or name another key: identity_file"
USERAUTH_FAILURE = 51
"""The message in which sshd refuses one try to log in, and names the methods that are left (RFC 4252)."""

LONGEST = 300
"""Characters of a banner that are kept for a message."""


@dataclass
class SshLogin:
    """Facts of one try. `offered` and `left` are methods of sshd: at first, and after it took a key and wants more."""

    tried: list[str] = field(default_factory=list)
    signed: list[str] = field(default_factory=list)
    banner: str = ""
    offered: tuple[str, ...] | None = None
    left: tuple[str, ...] = ()
    own_address: str = ""
    connection: asyncssh.SSHClientConnection | None = None

    @property
    def greeted(self) -> bool:
        """Whether sshd said its version: one that turns us away closes before it."""
        return self.connection is not None and self.connection.get_extra_info("server_version") is not None


def noting_client(
    login: SshLogin, pairs: Sequence[asyncssh.SSHKeyPair], on_host_key: Callable[[asyncssh.SSHKey], None]
) -> Callable[[], asyncssh.SSHClient]:
    """The factory of a client that offers these keys one by one, refuses unknown host keys, and notes what happens."""
    waiting = iter(pairs)

    class NotingClient(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            login.connection = conn
            name = conn.get_extra_info("sockname")
            login.own_address = str(name[0]) if isinstance(name, tuple) and name else ""
            _listen_for_refusals(conn, login)

        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            on_host_key(key)
            return False

        def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            on_host_key(key)
            return False

        def auth_banner_received(self, msg: str, lang: str) -> None:
            login.banner = f"{login.banner} {msg}"[:LONGEST]

        def public_key_auth_requested(self) -> asyncssh.SSHKeyPair | None:
            pair = next(waiting, None)
            if pair is not None:
                login.tried.append(pair_name(pair))
                _note_signature(pair, login)
            return pair

    return NotingClient


def _listen_for_refusals(connection: asyncssh.SSHClientConnection, login: SshLogin) -> None:
    """Note which methods sshd names. asyncssh keeps them to itself; without its inside only words would suffer."""
    handlers = getattr(connection, "_packet_handlers", {})
    handle = handlers.get(USERAUTH_FAILURE)
    if not handle:
        return

    def note(conn: Any, kind: int, number: int, packet: Any) -> Any:
        payload = packet.get_remaining_payload()
        size = int.from_bytes(payload[:4], "big")
        methods = tuple(payload[4 : 4 + size].decode("ascii", "replace").split(","))
        if login.offered is None:
            login.offered = methods
        if payload[4 + size :] not in (b"", b"\0"):
            login.left = methods
        return handle(conn, kind, number, packet)

    connection._packet_handlers = {**handlers, USERAUTH_FAILURE: note}


def _note_signature(pair: asyncssh.SSHKeyPair, login: SshLogin) -> None:
    """A key signs only when sshd has said that it would do."""
    sign: Any = getattr(pair, "sign_async", None)

    async def noting(data: bytes) -> bytes:
        login.signed.append(pair_name(pair))
        signature: bytes = await sign(data) if sign else pair.sign(data)
        return signature

    pair.sign_async = noting  # type: ignore[attr-defined]


def explain_login(
    node: str, hop: SshSettings, is_jump: bool, keys: Credentials, login: SshLogin, error: Exception
) -> NodeError:
    """Why a login failed, as exactly as can be known from here, and what to do next."""
    who = printable(f"{hop.user}@{hop.host}")
    place = f"the jump host {who}" if is_jump else who
    banner = printable(login.banner.strip())
    said = f" (it says: {banner})" if banner else ""
    if login.left:
        return AuthenticationFailed(
            node, f"{place} accepts our key and wants more: {_words(login.left)}", _key_only(hop, login)
        )
    if "authentication failures" in str(error):
        return AuthenticationFailed(
            node,
            f"{place} hung up after {len(login.tried)} keys (MaxAuthTries); the right one may be behind them",
            "name the one key: 'identity_file' in the inventory, or IdentityFile with `IdentitiesOnly yes`",
        )
    if isinstance(error, (asyncssh.ConnectionLost, ConnectionResetError)):
        return AuthenticationFailed(
            node,
            f"{place} knows our key, and closes the connection{said}",
            f"is the account locked or expired (chage -l {hop.user}), or kept out by PAM? See there: journalctl -u ssh",
        )
    if login.offered and "publickey" not in login.offered:
        return AuthenticationFailed(
            node,
            f"{place} takes no keys, only: {_words(login.offered)}",
            "set `PubkeyAuthentication yes` in its sshd_config: UGRO logs in with a key alone",
        )
    if login.signed:
        why = "PermitRootLogin in its sshd_config?" if hop.user == "root" else "is the account allowed to log in?"
        return AuthenticationFailed(
            node, f"{place} knows our key and still refuses the login{said}", f"{why} Its log says: journalctl -u ssh"
        )
    if not login.tried:
        return _no_key(node, place, hop, keys, login)
    missing = [*keys.problems, *keys.notes, *_not_honoured(hop, login)]
    also = f"; {'; '.join(missing)}" if missing else ""
    other = f"{ENCRYPTED_HINT}; or " if keys.encrypted else ""
    return AuthenticationFailed(
        node,
        f"{place} does not accept our key (tried: {', '.join(login.tried)}{also})",
        f"{other}install it: {_copy_id(hop, keys)}; if it is there, sshd has another reason: AllowUsers, from= in "
        "authorized_keys, a locked account, modes of ~/.ssh or PubkeyAcceptedAlgorithms; see there: journalctl -u ssh",
    )


def _not_honoured(hop: SshSettings, login: SshLogin) -> list[str]:
    return not_honoured(hop.values, OptionUse.AT_LOGIN, offered=login.offered or ())


def _no_key(node: str, place: str, hop: SshSettings, keys: Credentials, login: SshLogin) -> NodeError:
    more = _not_honoured(hop, login)
    if keys.encrypted:
        return KeyUnusable(
            node, f"{', '.join(keys.encrypted)} is encrypted, and no agent holds it", "; ".join([ENCRYPTED_HINT, *more])
        )
    if keys.problems or keys.notes or more:
        problems = "; ".join([*keys.problems, *keys.notes, *more])
        return KeyUnusable(node, f"no key to log in at {place} with: {problems}", f"compare with: {hop.by_hand}")
    places = ", ".join(keys.looked_at) or "no IdentityFile"
    return AuthenticationFailed(
        node,
        f"{place} needs a key, and there is none ({places}, and no agent)",
        f"make one: ssh-keygen -t ed25519, then: {_copy_id(hop, keys)}",
    )


def _words(methods: Sequence[str]) -> str:
    return printable(", ".join(methods))


def _key_only(hop: SshSettings, login: SshLogin) -> str:
    match = f"Match Address {login.own_address}" if login.own_address else f"Match User {hop.user}"
    return (
        f"UGRO needs a login by key alone. At the end of its sshd_config: `{match}`, and below it "
        "`AuthenticationMethods publickey`; then: sudo systemctl reload ssh"
    )


def _copy_id(hop: SshSettings, keys: Credentials) -> str:
    """The command that installs our key; `ssh-copy-id` takes its user before the host."""
    words, user = list(hop.arguments), ""
    if "-l" in words:
        at = words.index("-l")
        user = f"{words[at + 1]}@"
        del words[at : at + 2]
    public = next((f"{path}.pub" for path in keys.looked_at if _exists(f"{path}.pub")), "")
    return shlex.join(["ssh-copy-id", *(("-i", public) if public else ()), *words, f"{user}{hop.asked}"])


def _exists(path: str) -> bool:
    try:
        with open(path, "rb"):
            return True
    except OSError:
        return False
