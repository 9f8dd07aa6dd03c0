"""What runs on nodes: POSIX shell and stdlib Python, sent over the transport with each use, never installed there."""

from functools import cache
from importlib.resources import files


@cache
def load(name: str) -> str:
    """The text of a script in this folder, e.g. `load("probe.sh")`.

    Raises:
        FileNotFoundError: there is no such script.
    """
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
