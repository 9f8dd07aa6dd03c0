"""What runs on nodes: POSIX shell and stdlib Python, sent over the transport with each use, never installed there."""

from functools import cache
from importlib.resources import files


@cache
def load(name: str) -> str:
    """The text of a script by its capability and name, e.g. `load("gpus/probe.sh")`.

    Raises:
        FileNotFoundError: there is no such script.
    """
    capability, _, script = name.partition("/")
    return files("ugro.nodes.remote").joinpath(capability, "on_node", script).read_text(encoding="utf-8")
