"""A connection over all its jump hosts: each hop with its own settings, keys and known hosts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fnmatch
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncssh
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.public_key import get_certificate_algs, get_public_key_algs

from ugro.common.config import NodeConfig
from ugro.common.errors import KeyUnusable, NodeError, TurnedAway, Unreachable
from ugro.common.text import printable
from ugro.nodes.transport.credentials import Credentials, gather_credentials
from ugro.nodes.transport.host_keys import KEY_ALGORITHMS, HostKeyCheck
from ugro.nodes.transport.login import ENCRYPTED_HINT, SshLogin, explain_login, noting_client
from ugro.nodes.transport.ssh_config import SshSettings, find_route
from ugro.nodes.transport.ssh_options import OptionUse, not_honoured
from ugro.nodes.transport.way import Way

SILENT_HINT = "is the machine on, and on this network?"
FETCH_TIMEOUT = 15.0
"""Seconds for one kind of host key."""

CHACHA20, GCM = "chacha20-poly1305@openssh.com", ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com")

GREETING_WAIT = 2.0
"""Seconds for the line with which sshd turns a connection away."""


@dataclass(frozen=True)
class LinkLimits:
    """Seconds for connecting and logging in, and how a dead link is noticed."""

    connect: float
    login: float
    keepalive_interval: float
    keepalive_count: int


async def open_link(node: NodeConfig, limits: LinkLimits) -> Link:
    """Find the way to a node.

    Raises:
        KeyUnusable: its ssh_config cannot be read, or asks for what UGRO does not do.
    """
    return Link(node, await find_route(node), limits)


class Link:
    """The way to one node."""

    def __init__(self, node: NodeConfig, route: Sequence[SshSettings], limits: LinkLimits) -> None:
        self._node = node
        self._route = route
        self._limits = limits
        for hop in route:
            _refuse_impossible(node.name, hop)

    @property
    def target(self) -> SshSettings:
        """The settings of the node itself."""
        return self._route[-1]

    @property
    def connect_limit(self) -> float:
        """Seconds in which the node must be reached: ConnectTimeout, or UGRO's own."""
        return float(self.target.get("connecttimeout") or self._limits.connect)

    async def connect(self) -> asyncssh.SSHClientConnection:
        """Log in at each hop in turn.

        Raises:
            NodeError: which hop did not work, and why. TurnedAway: it may, a moment later.
        """
        through: asyncssh.SSHClientConnection | None = None
        try:
            for hop in self._route:
                through = await self._log_in(hop, through)
        except BaseException:
            if through:
                through.abort()
            raise
        assert through
        return through

    async def host_keys(self) -> list[asyncssh.SSHKey]:
        """Every host key the node offers, one per kind. Fetching is not trusting.

        Raises:
            NodeError: the node cannot be reached.
        """
        through: asyncssh.SSHClientConnection | None = None
        try:
            for hop in self._route[:-1]:
                through = await self._log_in(hop, through)
            return await self._fetch(self.target, through)
        finally:
            if through:
                through.abort()

    async def _fetch(self, hop: SshSettings, through: asyncssh.SSHClientConnection | None) -> list[asyncssh.SSHKey]:
        keys: list[asyncssh.SSHKey] = []
        refused: Exception = asyncssh.KeyExchangeFailed("no kind of host key in common")
        for algorithm in KEY_ALGORITHMS:
            way = Way(hop, through)
            # A server without a key of that kind says so, or just hangs up.
            try:
                async with asyncio.timeout(FETCH_TIMEOUT):
                    await way.open()
                    key = await asyncssh.get_server_host_key(
                        hop.host, hop.port, config=None, server_host_key_algs=[algorithm], **way.arguments
                    )
            except (asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost, ConnectionResetError) as error:
                refused = error
            except (OSError, asyncssh.Error) as error:
                raise self._explain(hop, error, way) from None
            else:
                keys += [key] if key else []
            finally:
                way.close()
        if not keys:
            raise self._explain(hop, refused, way)
        return keys

    async def _log_in(
        self, hop: SshSettings, through: asyncssh.SSHClientConnection | None
    ) -> asyncssh.SSHClientConnection:
        is_jump = hop is not self.target
        check = HostKeyCheck(self._node.name, hop, is_jump)
        only = None if is_jump else self._node.identity_file
        keys = await gather_credentials(hop, only)
        if only and not keys.pairs:
            raise _unusable(self._node.name, only, keys)
        login, way = SshLogin(), Way(hop, through)
        try:
            await way.open()
            connection = await asyncssh.connect(
                hop.host,
                hop.port,
                config=None,
                client_factory=noting_client(login, keys.pairs, check.note_offer),
                known_hosts=check.lookup,
                **way.arguments,
                **self._options(hop, check),
            )
        except BaseException as error:
            way.close()
            if not isinstance(error, (OSError, asyncssh.Error, ValueError)):
                raise
            raise await self._why(hop, through, error, check, keys, login, way) from None
        finally:
            keys.close()
        way.keep(connection)
        return connection

    async def _why(
        self,
        hop: SshSettings,
        through: asyncssh.SSHClientConnection | None,
        error: Exception,
        check: HostKeyCheck,
        keys: Credentials,
        login: SshLogin,
        way: Way,
    ) -> NodeError:
        is_jump = hop is not self.target
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return check.error(str(error))
        failed = isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error)
        broke = isinstance(error, (asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost, ConnectionResetError))
        if failed or (broke and login.signed):
            return explain_login(self._node.name, hop, is_jump, keys, login, error)
        if broke and not login.greeted and not way.said:
            return TurnedAway(
                self._node.name,
                f"{self._place(hop)}its sshd closes new connections at once",
                "too many at a time (MaxStartups), or a ban (PerSourcePenalties, fail2ban)?",
            )
        if broke and not login.tried and check.recorded:
            with contextlib.suppress(NodeError):
                offered = await self._fetch(hop, through)
                if not set(offered) & set(check.recorded):
                    check.note_offer(offered[0])
                    return check.error()
        return self._explain(hop, error, way)

    async def explain_turning_away(self, error: TurnedAway) -> TurnedAway:
        """The same with the words that sshd has for it, which only a plain connection hears."""
        hop = self._route[0]
        if hop.get("proxycommand"):
            return error
        line = b""
        with contextlib.suppress(OSError, ValueError):
            async with asyncio.timeout(GREETING_WAIT):
                reader, writer = await asyncio.open_connection(hop.host, hop.port)
                try:
                    line = await reader.readline()
                finally:
                    writer.close()
        said = printable(line.decode("utf-8", "replace").strip())[:100]
        if not said or said.startswith("SSH-"):
            return error
        return TurnedAway(error.node, f"{error.problem} (it says: {said})", error.hint)

    def _place(self, hop: SshSettings) -> str:
        return f"the jump host {printable(hop.label)}: " if hop is not self.target else ""

    def _explain(self, hop: SshSettings, error: Exception, way: Way) -> NodeError:
        """Return an error that the user can act on, for what asyncssh and the system raise while connecting."""
        name, target, before = self._node.name, self.target, self._route[: self._route.index(hop)]
        jumps = [printable(jump.label) for jump in self._route[:-1]]
        where = f"{target.host}:{target.port}" if target.port != 22 else target.host
        where = printable(where) + (f" through {', '.join(jumps)}" if jumps else "")
        if hop is not target:
            where += f": the jump host {printable(hop.label)}"
        detail = printable(str(error)) or type(error).__name__
        if way.said:
            return Unreachable(
                name, f"no SSH connection to {where}: its ProxyCommand says: {way.said}", f"try: {hop.by_hand}"
            )
        match error:
            case asyncssh.ChannelOpenError() if before:
                hint = "does its sshd allow forwarding (AllowTcpForwarding)?" if "prohibited" in detail else SILENT_HINT
                place = printable(f"{hop.host}:{hop.port}")
                return Unreachable(
                    name, f"{where}: {printable(before[-1].label)} makes no connection to {place} ({detail})", hint
                )
            case asyncssh.KeyExchangeFailed():
                hint = (
                    f"Ciphers, MACs, KexAlgorithms and HostKeyAlgorithms of both sides count; compare: {hop.by_hand} -v"
                )
                return Unreachable(name, f"{where} and this machine agree on no algorithm: {detail}", hint)
            case ConnectionRefusedError():
                return Unreachable(name, f"{where} refuses connections", "is sshd running there, and on this port?")
            case socket.gaierror():
                field = "'address' in the inventory" if hop is target else "ProxyJump in ssh_config"
                return Unreachable(name, f"{printable(hop.host)} is not a known host name", f"check {field}")
            case TimeoutError():
                return Unreachable(name, f"{where} does not answer", SILENT_HINT)
            case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH | errno.EHOSTDOWN):
                return Unreachable(name, f"{where} does not answer: {os.strerror(error.errno or 0)}", SILENT_HINT)
            case _:
                return Unreachable(name, f"no SSH connection to {where}: {detail}", f"try: {hop.by_hand}")

    def _options(self, hop: SshSettings, check: HostKeyCheck) -> dict[str, Any]:
        """The hop's settings as asyncssh takes them. No configuration file of its own choice is read."""
        name, limit = self._node.name, float(hop.get("connecttimeout") or self._limits.connect)
        host_key_algs = [*get_certificate_algs(), *get_public_key_algs()]
        compression = ["zlib@openssh.com", "none"] if hop.is_on("compression") else ["none", "zlib@openssh.com"]
        amount, _, interval = hop.get("rekeylimit").partition(" ")
        options: dict[str, Any] = {
            "username": hop.user,
            "host_key_alias": hop.get("hostkeyalias").lower() or None,
            "connect_timeout": limit,
            "login_timeout": max(limit, self._limits.login),
            "keepalive_interval": self._limits.keepalive_interval,
            "keepalive_count_max": self._limits.keepalive_count,
            "tcp_keepalive": hop.get("tcpkeepalive") != "no",
            # One byte of a banner that is not UTF-8 must not cost the connection.
            "utf8_decode_errors": "replace",
            # The client offers the keys itself; no other way to log in is tried.
            "client_keys": None,
            "preferred_auth": ["publickey"],
            "gss_kex": False,
            "gss_auth": False,
            "x509_trusted_certs": None,
            "x509_trusted_cert_paths": (),
            "agent_forwarding": False,
            "compression_algs": compression,
            "kex_algs": _known(name, hop, "KexAlgorithms", get_kex_algs()),
            "encryption_algs": _ciphers(name, hop),
            "mac_algs": _known(name, hop, "MACs", get_mac_algs()),
            "signature_algs": _known(name, hop, "PubkeyAcceptedAlgorithms", get_public_key_algs()),
            "env": _environment(hop),
        }
        allowed = _known(name, hop, "HostKeyAlgorithms", host_key_algs)
        options["server_host_key_algs"] = check.algorithms(list(allowed)) if allowed else ()
        options |= {"rekey_bytes": int(amount)} if amount.isdigit() and int(amount) else {}
        options |= {"rekey_seconds": int(interval)} if interval.isdigit() and int(interval) else {}
        return options


def _refuse_impossible(node: str, hop: SshSettings) -> None:
    """See that nothing is asked for which UGRO cannot do, and without which the connection would be another one.

    Raises:
        KeyUnusable: something is.
    """
    refused = not_honoured(hop.values, OptionUse.REFUSED)
    if text := hop.get("refuseconnection"):
        refused.append(f"ssh_config refuses the connection: {printable(text)}")
    methods = hop.get("preferredauthentications")
    if methods and "publickey" not in methods.split(","):
        refused.append(f"PreferredAuthentications {printable(methods)} leaves out publickey, the only way UGRO logs in")
    if refused:
        raise KeyUnusable(node, "; ".join(refused), f"change it for this host; its settings: {hop.resolve_by_hand}")


def _known(node: str, hop: SshSettings, name: str, available: Sequence[bytes]) -> Sequence[str]:
    """The algorithms of an option that the SSH library has; all of its defaults where the option is not set.

    Raises:
        KeyUnusable: it has none of them.
    """
    wanted = hop.get(name.lower())
    if not wanted:
        return ()
    have = {algorithm.decode() for algorithm in available}
    if found := [algorithm for algorithm in wanted.split(",") if algorithm in have]:
        return found
    raise KeyUnusable(node, f"{name} {printable(wanted)}: UGRO's SSH library has none of them", "allow one that it has")


def _ciphers(node: str, hop: SshSettings) -> Sequence[str]:
    """The ciphers that ssh allows. AES-GCM goes before ChaCha20: a packet takes the SSH library a fifth of the time.

    A list that does not begin with ChaCha20, as that of ssh does, is the user's own, and keeps its order.

    Raises:
        KeyUnusable: the SSH library has none of them.
    """
    known = _known(node, hop, "Ciphers", get_encryption_algs())
    return sorted(known, key=lambda cipher: cipher not in GCM) if known[:1] == [CHACHA20] else known


def _environment(hop: SshSettings) -> dict[str, str]:
    """SetEnv and SendEnv; without the language, which would change what programs print for UGRO to read."""
    patterns = [pattern for line in hop.all("sendenv") for pattern in line.split()]
    sent = {key: value for key, value in os.environ.items() if any(fnmatch.fnmatchcase(key, p) for p in patterns)}
    for line in hop.all("setenv"):
        key, _, value = line.partition("=")
        sent[key] = value
    return {key: value for key, value in sent.items() if key != "LANG" and not key.startswith("LC_")}


def _unusable(node: str, key: str, keys: Credentials) -> KeyUnusable:
    """Why the one key of the inventory cannot be used."""
    if keys.encrypted:
        return KeyUnusable(node, f"{key} is encrypted, and no agent holds it", ENCRYPTED_HINT)
    problem = "; ".join([*keys.problems, *keys.notes]) or f"{os.path.expanduser(key)}: No such file or directory"
    return KeyUnusable(node, problem, "check identity_file and ssh_config")
