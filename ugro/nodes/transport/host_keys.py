"""Strict host keys: distinguishes unknown from changed ones, and trusts none without the user's confirmation."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.public_key import get_certificate_algs

from ugro.common.errors import HostKeyChanged, HostKeyUnknown, KeyUnusable, NodeError
from ugro.common.text import printable
from ugro.nodes.transport.credentials import rsa_bits
from ugro.nodes.transport.ssh_config import SshSettings
from ugro.nodes.transport.ssh_options import OptionUse, not_honoured

KEY_ALGORITHMS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512")
KRL_MAGIC = b"SSHKRL"


class HostKeyCheck:
    """What is on record for a host, and what it offered, so that a refusal can say which of the two it is.

    Raises:
        KeyUnusable: a known_hosts file cannot be read or has a line that makes no sense.
    """

    def __init__(self, node: str, hop: SshSettings, is_jump: bool) -> None:
        self._node = node
        self._hop = hop
        self._is_jump = is_jump
        self.files = known_hosts_files(hop)
        self._hosts = read_known_hosts(node, self.files)
        # As for OpenSSH the name (or the alias) alone counts, not the address behind it.
        name, port = hop.get("hostkeyalias").lower() or hop.host.lower(), hop.port
        found = self._hosts.match(name, "", None if hop.get("hostkeyalias") or port == 22 else port)
        smallest = int(hop.get("requiredrsasize") or 0)
        self.recorded = [key for key in found[0] if not 0 < rsa_bits(key.public_data) < smallest]
        self.authorities = list(found[1])
        self.revoked = [*found[2], *_revoked(node, hop)]
        self.offered: asyncssh.SSHKey | None = None

    def lookup(self, host: str, address: str, port: int | None) -> Any:
        """For asyncssh's `known_hosts`. `UserKnownHostsFile none` never means no check."""
        revoked = [*self.revoked, *(self._hosts.match("", address, None)[2] if address else ())]
        return self.recorded, self.authorities, revoked

    def note_offer(self, key: asyncssh.SSHKey) -> None:
        """Remember the key, or the certificate's authority, that is about to be refused."""
        self.offered = key

    def algorithms(self, allowed: list[str]) -> list[str]:
        """Which of the allowed kinds of host key to ask for: those that can be on record, if any is."""
        kinds = {name.decode() for key in self.recorded for name in key.sig_algorithms}
        if self.authorities:
            kinds |= {name.decode() for name in get_certificate_algs()}
        return [name for name in allowed if name in kinds] or allowed

    def error(self, reason: str = "") -> NodeError:
        """Why the host key was refused, with fingerprints and the command to run. `reason` is asyncssh's."""
        offered = self.offered.get_fingerprint() if self.offered else "a key of another kind than recorded"
        host = f"the jump host {printable(self._hop.label)}: " if self._is_jump else ""
        named = "".join(f"; {line}" for line in not_honoured(self._hop.values, OptionUse.AT_HOST_KEY))
        trust = f"ugro trust {self._node}"
        if "revoked" in reason:
            return HostKeyChanged(
                self._node,
                f"{host}THE HOST KEY IS REVOKED (@revoked in known_hosts, or RevokedHostKeys)",
                "never trust it; give the machine new host keys: sudo rm /etc/ssh/ssh_host_*; sudo ssh-keygen -A",
            )
        if "ertificate" in reason and self.authorities:
            return HostKeyUnknown(
                self._node,
                f"{host}its host certificate is not valid: {printable(reason)}",
                "have the certificate authority sign the host key again, for this name",
            )
        if not self.recorded:
            ca = ", and no certificate of the authority on record" if self.authorities else ""
            if self._is_jump:
                where = printable(self._hop.label)
                return HostKeyUnknown(
                    self._node,
                    f"the host key of the jump host {where} is not known or has changed ({offered}){ca}{named}",
                    f"log in there once by hand and check its fingerprint: {self._hop.by_hand}",
                )
            return HostKeyUnknown(
                self._node,
                f"the host key is not known yet ({offered}){ca}{named}",
                "compare it with the node's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there), "
                f"then: {trust}",
            )
        recorded = ", ".join(dict.fromkeys(key.get_fingerprint() for key in self.recorded))
        files = ", ".join(self.files)
        if self._is_jump:
            forget = shlex.join(["ssh-keygen", "-R", self._hop.known_as, "-f", self.files[0]])
            return HostKeyChanged(
                self._node,
                f"{host}THE HOST KEY HAS CHANGED: offered {offered}, on record {recorded} in {files}",
                f"if it was reinstalled: {forget}, then log in by hand: {self._hop.by_hand}",
            )
        return HostKeyChanged(
            self._node,
            f"THE HOST KEY HAS CHANGED: offered {offered}, on record {recorded} in {files}",
            f"if the machine was reinstalled: {trust} --replace; if not, the connection may be intercepted",
        )


def known_hosts_files(hop: SshSettings) -> list[str]:
    """The known_hosts files that count for a host and exist."""
    return [path for path in (*hop.files("userknownhostsfile"), *hop.files("globalknownhostsfile")) if _is_file(path)]


def _is_file(path: str) -> bool:
    return os.path.exists(path) and path != os.devnull


def read_known_hosts(node: str, files: list[str]) -> asyncssh.SSHKnownHosts:
    """The records of several known_hosts files.

    Raises:
        KeyUnusable: one cannot be read, or has a line that makes no sense.
    """
    try:
        return asyncssh.read_known_hosts(files)
    except (OSError, ValueError) as error:
        detail = error.strerror if isinstance(error, OSError) else error
        raise KeyUnusable(node, f"{', '.join(files)} cannot be used: {detail}", "correct the file") from None


def _revoked(node: str, hop: SshSettings) -> list[asyncssh.SSHKey]:
    """The keys of RevokedHostKeys. As for ssh, a file that cannot be read refuses every host.

    Raises:
        KeyUnusable: it cannot be read, or is a list in OpenSSH's binary form.
    """
    name = hop.get("revokedhostkeys")
    if not name:
        return []
    path = hop.path(name)
    try:
        data = Path(path).read_bytes()
        if data.startswith(KRL_MAGIC):
            raise ValueError("it is a binary list (KRL); UGRO reads a text file of public keys, one a line")
        lines = [line for line in data.splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
        return [asyncssh.import_public_key(line) for line in lines]
    except (OSError, ValueError) as error:
        detail = error.strerror if isinstance(error, OSError) else error
        raise KeyUnusable(
            node, f"RevokedHostKeys {path} cannot be used: {detail}", "list public keys, one a line"
        ) from None


def writable_known_hosts(hop: SshSettings) -> Path:
    """The file a newly trusted key is written to: the first UserKnownHostsFile, or the default."""
    files = [path for path in hop.files("userknownhostsfile") if path != os.devnull]
    return Path(files[0] if files else os.path.expanduser("~/.ssh/known_hosts"))


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
