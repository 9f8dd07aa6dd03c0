"""How a script answers: by one line of JSON on stdout, whatever else speaks there before or after it.

`{"ugro": VERSION, "kind": KIND, "payload": …}`, or `"error"` with one line of text in the place of the payload. The
reader is `ugro.nodes.remote.answers`.
"""

from __future__ import annotations

import json
import sys
from typing import NoReturn

VERSION = 1


def answer(kind: str, payload: object) -> None:
    """Print the answer of a script."""
    say_line({"ugro": VERSION, "kind": kind, "payload": payload})


def refuse(kind: str, error: str) -> NoReturn:
    """Print why there is no answer, and end with exit code 1."""
    say_line({"ugro": VERSION, "kind": kind, "error": error})
    sys.exit(1)


def say_line(envelope: object) -> None:
    """Print a line of its own, also where what spoke before did not end its last line."""
    print("\n" + json.dumps(envelope), flush=True)


def error_in_words(error: BaseException) -> str:
    """An error as one line of text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename!r}" if error.filename else "")
    return " ".join(str(error).split()) or type(error).__name__
