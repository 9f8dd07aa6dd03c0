"""Answers as the Python scripts on nodes give them."""

from __future__ import annotations


def envelope(kind: str, payload: str) -> bytes:
    """The line of an answer whose payload is that JSON, which may be broken."""
    return f'\n{{"ugro": 1, "kind": "{kind}", "payload": {payload}}}\n'.encode()
