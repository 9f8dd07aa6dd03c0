"""Looks at the account on a machine, and adds or removes the line of a key in its authorized_keys."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from ugro.common.errors import NodeRefused
from ugro.common.text import printable
from ugro.nodes.remote.answers import CUT_SHORT, Section, read_sections, require
from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Outcome, Transport

MARK = "added-by-ugro"
"""Ends the comment of a line that UGRO added; no other line is ever removed."""

LONGEST = 300
"""Characters of a path or a line of configuration that are kept."""

HOME_HINT = "an administrator makes it there: sudo mkhomedir_helper USER, or sudo install -d -o USER -m 700 DIRECTORY"


@dataclass(frozen=True)
class FileMode:
    """Who owns a file or folder, and who may write it."""

    mode: int
    uid: int

    @property
    def open_to_others(self) -> bool:
        """Whether others than the owner may write it; sshd then uses no key."""
        return bool(self.mode & 0o022)


@dataclass(frozen=True)
class Account:
    """Facts about the account on a node. None and empty: not known.

    `modes` are those of `home`, `ssh` and `file`. `config` has the lines of `config_path`, the configuration of sshd,
    that concern keys; None: it may not be read.
    """

    user: str
    uid: int
    home: str
    homeless: bool = False
    link: str = ""
    modes: Mapping[str, FileMode] = field(default_factory=dict)
    filesystem: str = ""
    selinux: str = ""
    config_path: str = ""
    config: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Installed:
    """What became of a key's line. `link`: .ssh is a link to there, and nothing was done.

    `corrected` has the paths, below the home directory, that others could write until now.
    """

    added: bool
    link: str = ""
    corrected: tuple[str, ...] = ()


async def look(transport: Transport) -> Account:
    """Look at the account that a transport is logged in to.

    Raises:
        NodeRefused: it gives no answer that makes sense. NodeError: as in `Transport.run`.
    """
    nonce = secrets.token_hex(12)
    outcome = await transport.run(load("account/look.sh"), (nonce,))
    found = {section.name: section for section in _sections(transport, outcome, nonce, "the account cannot be read")}
    user = found.get("user", Section("user", "")).arguments
    modes = {name.removeprefix("mode."): made for name, s in found.items() if (made := _mode(s)) is not None}
    config = found.get("sshd")
    return Account(
        user=printable(user[0])[:LONGEST] if user else "",
        uid=int(user[1]) if len(user) > 1 and user[1].isdecimal() else -1,
        home=_line(found.get("home")),
        homeless="homeless" in found,
        link=_line(found.get("link.ssh")),
        modes=modes,
        filesystem=_rest(found.get("filesystem")),
        selinux=_rest(found.get("selinux")),
        config_path=_rest(config or found.get("sshd-unread")),
        config=tuple(printable(line.strip())[:LONGEST] for line in config.lines) if config else None,
    )


async def install_key(transport: Transport, blob: str, line: str, follow: bool = False) -> Installed:
    """Append a key's line to authorized_keys, unless the key is there. A link in place of .ssh has to be agreed to.

    Raises:
        NodeRefused: it cannot be written. NodeError: as in `Transport.run`.
    """
    nonce = secrets.token_hex(12)
    given = f"{blob}\n{line} {MARK}\n".encode()
    arguments = (nonce, "follow" if follow else "stop")
    outcome = await transport.run(load("account/install_key.sh"), arguments, data=given)
    problem = "the key cannot be installed"
    hint = HOME_HINT if "home directory" in outcome.error_text else ""
    sections = _sections(transport, outcome, nonce, problem, hint)
    found = {section.name: section for section in sections}
    corrected = tuple(printable(" ".join(s.arguments[1:])) for s in sections if s.name == "mode")
    return Installed("installed" in found, _line(found.get("link")), corrected)


async def remove_key(transport: Transport, blob: str) -> tuple[int, int]:
    """Remove the lines of a key that UGRO added. Return how many they were, and how many others of that key stay.

    Raises:
        NodeRefused: authorized_keys cannot be written. NodeError: as in `Transport.run`.
    """
    nonce = secrets.token_hex(12)
    outcome = await transport.run(load("account/remove_key.sh"), (nonce,), data=f"{blob}\n{MARK}\n".encode())
    found = {s.name: s.rest for s in _sections(transport, outcome, nonce, "the key's line cannot be removed")}
    removed, left = (found.get(name, "") for name in ("removed", "left"))
    if not (removed.isdecimal() and left.isdecimal()):
        raise NodeRefused(transport.name, f"the key's line cannot be removed: {CUT_SHORT}")
    return int(removed), int(left)


def _sections(transport: Transport, outcome: Outcome, nonce: str, problem: str, hint: str = "") -> list[Section]:
    require(transport, outcome, problem, hint)
    sections = read_sections(outcome.text, nonce)
    if f"\n@{nonce} end" not in f"\n{outcome.text}":
        raise NodeRefused(transport.name, f"{problem}: {CUT_SHORT}")
    return sections


def _mode(section: Section) -> FileMode | None:
    if not section.name.startswith("mode.") or len(words := section.arguments) < 2:
        return None
    mode, uid = words[:2]
    valid = mode.isdecimal() and uid.isdecimal() and len(mode) < 6 and not {*"89"} & {*mode}
    return FileMode(int(mode, 8), int(uid)) if valid else None


def _line(section: Section | None) -> str:
    return printable(section.lines[0])[:LONGEST] if section and section.lines else ""


def _rest(section: Section | None) -> str:
    return printable(section.rest)[:LONGEST] if section else ""
