"""The scripts that run on nodes: POSIX shell and stdlib Python, sent with each use, never installed there.

What several Python scripts share they import from modules in `on_node/`, as any module would. A node has no UGRO to
import from, so those modules are put in front of the script, and the import lines are taken out. Those of `typing` are
taken out, too.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

FUTURE = "from __future__ import annotations\n"
"""How every Python script begins after its docstring: its annotations are not evaluated by a Python 3.8."""

PRELUDE = f"""{FUTURE}
import sys

if "" in sys.path:
    sys.path.remove("")  # what lies in the home folder must not pass for a library
"""

SHARED = re.compile(r"^from ugro\.nodes\.remote\.([\w.]*on_node\.\w+) import (?:\([^)]*\)|[^(\n]*)\n", re.MULTILINE)
"""The import of a module that is sent along, by its dotted name below this package."""

TYPING = re.compile(r"^from typing import (?:\([^)]*\)|[^(\n]*)\n", re.MULTILINE)
"""What only annotations need, which are not evaluated there: `typing` would take milliseconds of each start."""


@cache
def load(name: str) -> str:
    """The text of a script by its capability and name, e.g. `load("gpus/probe.sh")`, ready to be sent.

    Raises:
        FileNotFoundError: there is no such script.
    """
    capability, _, script = name.partition("/")
    path = f"{capability}/on_node/{script}"
    return PRELUDE + "\n".join(parts(path)) if script.endswith(".py") else source(path)


def parts(path: str) -> list[str]:
    """A Python script, by its path below this package, after the modules that it needs, each without its imports of us.

    Raises:
        FileNotFoundError: one is not there.
    """
    found: dict[str, str] = {}

    def add(path: str) -> None:
        text = source(path)
        for shared in SHARED.findall(text):
            needed = shared.replace(".", "/") + ".py"
            if needed not in found:
                add(needed)
        found[path] = TYPING.sub("", SHARED.sub("", text)).replace(FUTURE, "", 1)

    add(path)
    return list(found.values())


def source(path: str) -> str:
    """The text of a file by its path below this package.

    Raises:
        FileNotFoundError: it is not there.
    """
    return files("ugro.nodes.remote").joinpath(path).read_text(encoding="utf-8")
