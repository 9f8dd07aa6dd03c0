"""Makes a Python environment with torch on a node, below its base directory: `on_node/environment.sh`.

With uv where the node has it or this machine can send it: one static program (`pip install ugro[envs]`), removed again
after the use. Else with a Python of the node that has venv and pip.
"""

from __future__ import annotations

import platform
import re
import secrets
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

from ugro.common.errors import NodeRefused
from ugro.common.models.record import Record
from ugro.common.text import printable
from ugro.nodes.remote.answers import ERROR_LIMIT, last_words, read_sections
from ugro.nodes.remote.bundle import load
from ugro.nodes.remote.python import with_env
from ugro.nodes.transport import Outcome, Transport

TIMEOUT = 3 * 3600.0
"""Seconds: a build with CUDA is 3 to 4 GB, and a line may have 1 MB/s."""

LINE_LIMIT = 500
"""Characters that are kept of a line of progress."""

ADVICE = (
    "install it there as root, and repeat: apt install python3-venv (Debian, Ubuntu), dnf install python3 (Fedora); "
    "or here, so that uv is sent: pip install 'ugro[envs]'"
)

Progress = Callable[[str], None]
"""Called with each line that the tools print."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._*<>=!,+\[\]-]{0,99}")
_INDEX = re.compile(r"(https?|file)://[^\s\x00-\x20\x7f]{1,500}")


class Recipe(Record):
    """What to make: an environment of that name with these packages from an index.

    `python` is the version as uv takes it; without uv it is one between `oldest` and `newest` (major, minor).
    """

    name: str
    python: str
    oldest: tuple[int, int]
    newest: tuple[int, int]
    index_url: str
    packages: tuple[str, ...]

    def check(self) -> None:
        """See that nothing in it is an option, or a path that leads elsewhere.

        Raises:
            ValueError: something is.
        """
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of an environment")
        if not is_index(self.index_url):
            raise ValueError(f"{self.index_url!r} is no address of a package index")
        for word in (self.python.lstrip("<>="), *self.packages):
            if not _WORD.fullmatch(word):
                raise ValueError(f"{word!r} is neither a package nor a version")


def is_index(url: str) -> bool:
    """Whether this may be the address of a package index: http, https or file, and no password in it."""
    return bool(_INDEX.fullmatch(url)) and "@" not in url.split("/")[2]


def own_uv() -> Path | None:
    """The uv of this machine: of the environment that UGRO runs in, or on the PATH."""
    beside = Path(sysconfig.get_path("scripts"), "uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    return Path(found) if found else None


class Tools(Record):
    """What decides how an environment is made on a node: the kind of its CPU, and whether it has uv."""

    machine: str | None
    uv: bool


async def tools(transport: Transport) -> Tools:
    """Ask a node for them.

    Raises:
        NodeError: as `Transport.run` does.
    """
    outcome = await transport.run(with_env(transport.node, _TOOLS), (nonce := secrets.token_hex(8),))
    said = {section.name: section.rest for section in read_sections(outcome.text, nonce)}
    machine = said.get("machine", "")
    return Tools(machine=machine if re.fullmatch(r"[A-Za-z0-9_]{1,20}", machine) else None, uv="uv" in said)


_TOOLS = """\
echo "@$1 machine $(uname -m)"
for uv in "$(command -v uv)" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do [ ! -x "$uv" ] || echo "@$1 uv"; done
echo "@$1 -"
"""


async def make(transport: Transport, recipe: Recipe, uv: Path | None, progress: Progress) -> str:
    """Make an environment, and return the path of its Python. What an earlier, broken attempt left is used or removed.

    `uv` is a program of this machine that is sent for it: see `uv_to_send`.

    Raises:
        NodeRefused: it could not be made, with the last line that says why; something that is not UGRO's is there; or
            another process makes it now. NodeError: as `Transport.run` does; the same call then continues it.
        ValueError: the recipe has what cannot be asked for.
    """
    recipe.check()
    nonce, program = secrets.token_hex(8), uv.read_bytes() if uv else b""
    lines = _Lines(progress)
    node = transport.node
    (_, low), (_, high) = recipe.oldest, recipe.newest
    args = (
        *(nonce, node.base_dir, recipe.name, recipe.python, str(low), str(high)),
        *(recipe.index_url, str(len(program)), *recipe.packages),
    )
    script = with_env(node, load("interpreters/environment.sh"))
    outcome = await transport.run(script, args, data=program, timeout=TIMEOUT, on_output=lines.take)
    return _made(transport, outcome, lines, recipe, nonce)


class _Lines:
    """Hands over each line of stderr, and keeps what stdout says."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._rest = progress, b""
        self.said = bytearray()
        self.last = ""

    def take(self, stream: str, chunk: bytes) -> None:
        if stream == "stdout":
            self.said.extend(chunk[: max(0, 2**20 - len(self.said))])
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest[-LINE_LIMIT:]
        for line in lines:
            if words := printable(line.decode("utf-8", "replace")).strip()[:LINE_LIMIT]:
                self.last = words
                self._progress(words)


def _made(transport: Transport, outcome: Outcome, lines: _Lines, recipe: Recipe, nonce: str) -> str:
    sections = read_sections(lines.said.decode("utf-8", "replace"), nonce)
    said = {section.name: section.rest for section in sections}
    node, name = transport.name, recipe.name
    if (path := said.get("made", "")).startswith("/") and path.isprintable():
        return path
    why, _, word = said.get("failed", "").partition(" ")
    word = printable(word)[:LINE_LIMIT]
    if why == "busy":
        raise NodeRefused(node, f"another process makes the environment {name} now (pid {word})", "wait for its end")
    if why == "foreign":
        raise NodeRefused(node, f"{word} is there and was not made by UGRO", "rename or remove it there, and repeat")
    if why == "tool":
        raise NodeRefused(node, "it has neither uv nor a Python with venv and pip", ADVICE)
    last = lines.last or last_words(outcome)
    raise NodeRefused(
        node,
        f"the environment {name} could not be made: {last[:ERROR_LIMIT]}",
        f"if the connection broke, repeat it, which continues: ugro node python {node} --make; else --index-url URL",
    )


def uv_to_send(found: Tools) -> Path | None:
    """The uv of this machine where the node has none and can run it."""
    return own_uv() if not found.uv and found.machine == platform.machine() else None
