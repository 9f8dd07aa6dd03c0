"""The keys that a login offers, in the order in which ssh offers them, and why others are not among them."""

from __future__ import annotations

import asyncio
import base64
import copy
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncssh
from asyncssh.public_key import decode_ssh_public_key

from ugro.common.text import printable
from ugro.nodes.transport.ssh_config import SshSettings

AGENT_TIMEOUT = 5.0
"""Seconds for ssh-agent to name its keys."""


@dataclass
class Credentials:
    """Key pairs to offer one after another. `problems` are keys that cannot be used; `notes` what else is odd."""

    pairs: list[asyncssh.SSHKeyPair] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    encrypted: list[str] = field(default_factory=list)
    looked_at: list[str] = field(default_factory=list)
    agent: asyncssh.SSHAgentClient | None = None

    def close(self) -> None:
        """Leave the agent; its keys sign nothing any more."""
        if self.agent:
            self.agent.close()


@dataclass
class _File:
    """One IdentityFile: its key pairs with and without a certificate, or only the public key that an agent may hold."""

    path: str
    pairs: Sequence[asyncssh.SSHKeyPair] = ()
    public: bytes | None = None
    problem: str = ""
    encrypted: bool = False


async def gather_credentials(settings: SshSettings, only: str | None = None) -> Credentials:
    """The keys for a host; with `only` that file alone, from disk or from the agent."""
    paths = [os.path.expanduser(only)] if only else [settings.path(name) for name in settings.all("identityfile")]
    paths = [path for path in dict.fromkeys(paths) if path.lower() != "none"]
    found = Credentials(looked_at=paths)
    certificates = _certificates([settings.path(name) for name in settings.all("certificatefile")], found)
    files = await asyncio.to_thread(lambda: [_read(path, certificates) for path in paths])
    held = await _agent_keys(settings, found)
    held += [
        _with_certificate(key, certificate)
        for certificate in certificates
        for key in held
        if key.key_public_data == certificate.key.public_data
    ]
    wanted = [key for file in files for key in held if file.public and key.key_public_data == file.public]
    others = [] if only or settings.is_on("identitiesonly") else [key for key in held if key not in wanted]
    of_agent = {key.key_public_data for key in held}
    for file in files:
        if file.public not in of_agent:
            found.problems += [file.problem] if file.problem else []
            found.encrypted += [file.path] if file.encrypted else []
            found.pairs += file.pairs
        found.notes += _open_to_others(file.path) if file.pairs else []
    found.pairs = [pair for pair in (*wanted, *others, *found.pairs) if _accepted(pair, settings, found)]
    return found


def _read(path: str, certificates: Sequence[asyncssh.SSHCertificate]) -> _File:
    try:
        pairs = asyncssh.load_keypairs([path], certlist=list(certificates))
        for pair in pairs:
            pair.set_comment(path)  # the name by which the user knows it in a message
        return _File(path, pairs, pairs[0].key_public_data if pairs else None)
    except FileNotFoundError:
        return _File(path, public=_public(path))
    except OSError as error:
        return _File(path, public=_public(path), problem=f"{path}: {error.strerror}")
    except (ValueError, asyncssh.Error) as error:
        public = _public(path)
        if "assphrase" in str(error):
            return _File(path, public=public, problem=f"{path} is encrypted, and no agent holds it", encrypted=True)
        problem = f"{path} is a public key, and no agent holds its private one" if public else ""
        return _File(path, public=public, problem=problem or f"{path} cannot be used ({printable(str(error))})")


def _public(path: str) -> bytes | None:
    """The public half of a key whose private half cannot be had: of the file itself, its `.pub`, or its header."""
    for name in (path, f"{path}.pub"):
        try:
            return asyncssh.read_public_key(name).public_data
        except (OSError, ValueError):
            continue
    try:
        with open(path, "rb") as file:
            lines = re.sub(rb"-----[^\n]*", b"", file.read(65536))
        data = base64.b64decode(lines)
    except (OSError, ValueError):
        return None
    magic, _, rest = data.partition(b"\0")
    if magic != b"openssh-key-v1":
        return None
    for _ in range(3):  # cipher, key derivation and its options
        rest = rest[4 + int.from_bytes(rest[:4], "big") :]
    size = int.from_bytes(rest[4:8], "big")
    return rest[8 : 8 + size] or None


def _certificates(paths: Sequence[str], found: Credentials) -> list[asyncssh.SSHCertificate]:
    certificates: list[asyncssh.SSHCertificate] = []
    for path in paths:
        try:
            certificates.append(asyncssh.read_certificate(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            found.notes.append(f"CertificateFile {path}: {printable(str(reason))}")
    return certificates


async def _agent_keys(settings: SshSettings, found: Credentials) -> list[asyncssh.SSHKeyPair]:
    path = _agent_path(settings)
    if not path:
        return []
    found.agent = asyncssh.SSHAgentClient(path)
    try:
        async with asyncio.timeout(AGENT_TIMEOUT):
            return list(await found.agent.get_keys())
    except (ValueError, OSError) as error:
        reason = printable(str(error)) or f"no answer within {AGENT_TIMEOUT:g} s"
        found.notes.append(f"ssh-agent at {path}: {reason}")
        return []


def _agent_path(settings: SshSettings) -> str:
    """The agent's socket; "" where there is none."""
    said = next(iter(settings.all("identityagent")), "SSH_AUTH_SOCK")
    if said.lower() == "none":
        return ""
    if said == "SSH_AUTH_SOCK" or (said.startswith("$") and not said.startswith("${")):
        return os.environ.get(said.removeprefix("$"), "")
    return settings.path(said)


def _with_certificate(key: asyncssh.SSHKeyPair, certificate: asyncssh.SSHCertificate) -> asyncssh.SSHKeyPair:
    certified = copy.copy(key)
    certified.set_certificate(certificate)
    return certified


def _accepted(pair: asyncssh.SSHKeyPair, settings: SshSettings, found: Credentials) -> bool:
    """Whether PubkeyAcceptedAlgorithms and RequiredRSASize let this key be offered."""
    name = pair_name(pair)
    accepted = (settings.get("pubkeyacceptedalgorithms") or settings.get("pubkeyacceptedkeytypes")).split(",")
    if accepted != [""] and not {pair.algorithm.decode(), *map(bytes.decode, pair.sig_algorithms)} & set(accepted):
        found.problems.append(f"{name} is of a kind that PubkeyAcceptedAlgorithms leaves out")
        return False
    bits = rsa_bits(pair.key_public_data)
    if bits and bits < int(settings.get("requiredrsasize") or 0):
        found.problems.append(f"{name} has {bits} bits, fewer than RequiredRSASize")
        return False
    return True


def pair_name(pair: asyncssh.SSHKeyPair) -> str:
    """Return the name by which the user knows a key: its file, or what the agent calls it."""
    return printable(pair.get_comment(errors="replace") or pair.get_algorithm())


def rsa_bits(public: bytes) -> int:
    """Return the bits of an RSA key; 0 for other kinds."""
    try:
        key = decode_ssh_public_key(public)
        return int(getattr(key.pyca_key, "key_size", 0)) if key.get_algorithm() == "ssh-rsa" else 0
    except ValueError:
        return 0


def _open_to_others(path: str) -> list[str]:
    """ssh does not use a key that others can read; UGRO does, and says so when it comes to nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return []
    mode = found.st_mode & 0o777
    if found.st_uid != os.getuid() or not mode & 0o077:
        return []
    return [f"{path} can be read by others (mode {mode:04o}), so ssh would not use it: chmod 600 {path}"]
