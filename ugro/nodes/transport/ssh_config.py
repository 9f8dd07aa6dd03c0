"""What ssh_config(5) says of a node, as the OpenSSH client itself understands it.

`ssh -G` resolves the file: `Match exec`, `Include`, canonical names, quotes, comments and defaults come out as for
`ssh`, whichever version is installed, and a connection gets explicit settings. A parser of our own (or asyncssh's)
would disagree with the person's `ssh` sooner or later; `ssh -G` costs 5 ms a host and runs beside the event loop.
Where no OpenSSH client is installed, asyncssh's parser reads the file, with the limits it has.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import pwd
import re
import shlex
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha1

from ugro.common.config import NodeConfig
from ugro.common.errors import KeyUnusable
from ugro.common.text import printable
from ugro.nodes import children
from ugro.nodes.transport.ssh_options import BY_NAME

RESOLVE_TIMEOUT = 10.0
"""Seconds for `ssh -G`, which may have to run a `Match exec` and to ask a name server."""

MOST_JUMPS = 8
"""More jump hosts than that are taken for a circle."""

_DEFAULT_FILE = NodeConfig.model_fields["ssh_config"].default
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>.+)@)?(?P<host>\[[^\]]+\]|[^:@]+|[^@]*:[^@]*:[^@]*?)(?::(?P<port>\d+))?/?")
_TOKEN = re.compile(r"%(.)")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class SshSettings:
    """How one host is reached. `values` are by lower-case name, one for each line of `ssh -G`.

    `label` is the user's name for it, `arguments` are ssh's before the host that was asked for. `identity_file` is the
    inventory's, and `jumps` are passed before a jump host that is not the first.
    """

    label: str
    asked: str
    values: Mapping[str, tuple[str, ...]]
    arguments: tuple[str, ...] = ()
    identity_file: str | None = None
    jumps: tuple[str, ...] = ()

    @property
    def by_hand(self) -> str:
        """Return the ssh command that reaches the same host."""
        key = ("-i", self.path(self.identity_file)) if self.identity_file else ()
        jumps = ("-J", ",".join(self.jumps)) if self.jumps else ()
        return printable(shlex.join(["ssh", *self.arguments, *key, *jumps, self.asked]))

    @property
    def resolve_by_hand(self) -> str:
        """Return the command that shows these settings."""
        return shlex.join(["ssh", "-G", *self.arguments, self.asked])

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of an option that may be given several times."""
        return self.values.get(name, ())

    def get(self, name: str) -> str:
        """The value of an option; "" where there is none, or it is `none`."""
        value = next(iter(self.all(name)), "")
        return "" if value.lower() == "none" else value

    def is_on(self, name: str) -> bool:
        """Whether an option that is yes or no is yes."""
        return self.get(name).lower() in ("yes", "true")

    @property
    def host(self) -> str:
        """The name or address that is connected to."""
        return self.get("hostname") or self.asked

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.get("port") or 22)

    @property
    def user(self) -> str:
        """The user name on that host."""
        return self.get("user") or getpass.getuser()

    @property
    def known_as(self) -> str:
        """The name in known_hosts: the alias as it stands, or the host, in brackets with a port other than 22."""
        if alias := self.get("hostkeyalias"):
            return alias.lower()
        return self.host.lower() if self.port == 22 else f"[{self.host.lower()}]:{self.port}"

    def expand(self, text: str) -> str:
        """A value with its tokens (`%h`), variables (`${X}`) and `~`; unknown ones stay as they are."""
        local = socket.gethostname()
        tokens = {
            "%": "%",
            "h": self.host,
            "n": self.asked,
            "p": str(self.port),
            "r": self.user,
            "k": self.get("hostkeyalias") or self.asked,
            "j": self.get("proxyjump"),
            "u": getpass.getuser(),
            "i": str(os.getuid()),
            "d": os.path.expanduser("~"),
            "l": local,
            "L": local.partition(".")[0],
        }
        tokens["C"] = sha1("".join(tokens[key] for key in "lhprj").encode()).hexdigest()
        text = _TOKEN.sub(lambda match: tokens.get(match[1], match[0]), text)
        return _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), text)

    def path(self, text: str) -> str:
        """A value that names a file."""
        return os.path.expanduser(self.expand(text))

    def files(self, name: str) -> list[str]:
        """The files of an option that takes several. `ssh -G` separates them by spaces and does not quote them."""
        values = [value for value in self.all(name) if value.lower() != "none"]
        if len(values) != 1:
            return [self.path(value) for value in values]
        home = pwd.getpwuid(os.getuid()).pw_dir
        found: list[str] = []
        for word in values[0].split(" "):
            joined = f"{found[-1]} {word}" if found else word
            begins = word.startswith(("/", "~")) and not os.path.exists(self.path(joined))
            if not found or begins or (not word.startswith(("/", "~")) and os.path.exists(self.path(word))):
                found.append(word)
            else:
                found[-1] = joined
        default = [f"{home}/.ssh/known_hosts", f"{home}/.ssh/known_hosts2"]
        return [self.path("~" + file.removeprefix(home) if found == default else file) for file in found]


def config_arguments(node: NodeConfig) -> list[str]:
    """The options that tell ssh which file counts; nothing where that is its own choice."""
    path = os.path.expanduser(node.ssh_config)
    if node.ssh_config == _DEFAULT_FILE:
        own_home = os.path.expanduser("~") == pwd.getpwuid(os.getuid()).pw_dir  # ssh does not look at HOME
        return [] if own_home else ["-F", path if os.path.exists(path) else "none"]
    return ["-F", path] if os.path.exists(path) else []


def login_arguments(user: str | None, port: int | None) -> list[str]:
    """Return the options that the inventory or a jump sets itself, which come before the file's."""
    return [*(("-p", str(port)) if port else ()), *(("-l", user) if user else ())]


async def find_route(node: NodeConfig) -> tuple[SshSettings, ...]:
    """The hosts to pass, in order: jump hosts first, the node last.

    Raises:
        KeyUnusable: the file cannot be read, has a mistake, or leads in a circle.
    """
    if not config_arguments(node) and node.ssh_config != _DEFAULT_FILE:
        raise KeyUnusable(
            node.name, f"ssh_config {os.path.expanduser(node.ssh_config)} does not exist", "correct 'ssh_config'"
        )
    last = await _resolve(node, node.address, node.user, node.port, node.address)
    route = [replace(last, identity_file=node.identity_file)]
    jumps = _jumps(last)
    while jumps:
        if len(route) > MOST_JUMPS:
            raise KeyUnusable(node.name, f"ProxyJump leads over more than {MOST_JUMPS} hosts", last.by_hand)
        *before, jump = jumps
        match = _JUMP.fullmatch(jump)
        if not match:
            raise KeyUnusable(node.name, f"ProxyJump {printable(jump)} makes no sense", "write USER@HOST:PORT")
        port = int(match["port"]) if match["port"] else None
        host = match["host"].strip("[]")  # `ssh -G` puts even an IPv4 address into brackets
        shown = f"[{host}]" if port and ":" in host else host
        label = (f"{match['user']}@" if match["user"] else "") + shown + (f":{port}" if port else "")
        hop = await _resolve(node, host, match["user"], port, label)
        # As `ssh -J a,b`: what b says of its own way counts only where it is the first.
        jumps = before or _jumps(hop)
        route.insert(0, hop if not before else replace(_without_proxy(hop), jumps=tuple(before)))
    return tuple(route)


def _jumps(settings: SshSettings) -> list[str]:
    return [jump for jump in settings.get("proxyjump").split(",") if jump]


def _without_proxy(settings: SshSettings) -> SshSettings:
    return replace(settings, values={name: value for name, value in settings.values.items() if name != "proxycommand"})


async def _resolve(node: NodeConfig, host: str, user: str | None, port: int | None, label: str) -> SshSettings:
    arguments = (*config_arguments(node), *login_arguments(user, port))
    if not shutil.which("ssh"):
        return SshSettings(label, host, await asyncio.to_thread(_by_library, node, host, user, port), arguments)
    command = ("ssh", "-G", *arguments, "--", host)  # a jump host may be called like an option
    status, stdout, stderr = await children.output(*command, seconds=RESOLVE_TIMEOUT)
    if status is None:
        hint = f"does a `Match exec` in it hang? Try: {shlex.join(command)}"
        raise KeyUnusable(node.name, f"{node.ssh_config} was not read within {RESOLVE_TIMEOUT:g} s", hint)
    if status:
        complaint = stderr.decode("utf-8", "replace")
        lines = [line for line in complaint.splitlines() if line.strip()] or [f"ssh -G ended with {status}"]
        raise KeyUnusable(node.name, printable(lines[0]), f"correct it; this says the same: {shlex.join(command)}")
    values: dict[str, tuple[str, ...]] = {}
    for line in stdout.decode("utf-8", "surrogateescape").splitlines():
        name, _, value = line.partition(" ")
        values[name.lower()] = (*values.get(name.lower(), ()), value)
    return SshSettings(label, host, values, arguments)


def _by_library(node: NodeConfig, host: str, user: str | None, port: int | None) -> dict[str, tuple[str, ...]]:
    """The same from asyncssh's parser. Lists with a prefix (`+aes128-cbc`) are left out: it cannot resolve them.

    Raises:
        KeyUnusable: it does not understand the file.
    """
    import asyncssh  # a third of a command's start, and rsync needs only the names

    path = os.path.expanduser(node.ssh_config)
    given = {key: value for key, value in (("username", user), ("port", port)) if value}
    try:
        options = asyncssh.SSHClientConnectionOptions(
            config=[path] if os.path.exists(path) else None, host=host, client_keys=None, known_hosts=b"", **given
        )
    except (ValueError, OSError) as error:
        hint = "install the OpenSSH client here: UGRO reads the file as it does then"
        raise KeyUnusable(node.name, f"{node.ssh_config}: {error}", hint) from None
    values: dict[str, tuple[str, ...]] = {}
    for name, option in BY_NAME.items():
        found = options.config.get(option.name)
        words = found if isinstance(found, list) else [] if found is None else [found]
        texts = tuple("yes" if word is True else "no" if word is False else str(word) for word in words)
        if texts and not texts[0].startswith(("+", "-", "^")):
            values[name] = texts
    family = "inet" if options.family == socket.AF_INET else "inet6" if options.family == socket.AF_INET6 else "any"
    return values | {"user": (options.username,), "hostname": (options.host,), "addressfamily": (family,)}
