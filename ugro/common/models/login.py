"""Questions that a machine asks at the first login to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class LoginPrompt:
    """One question of a machine. It is never recorded, and neither is its answer.

    `text` are the machine's own words, made harmless; `secret`: what is typed must not be shown. `again` counts the
    answers that the machine refused so far.
    """

    node: str
    account: str
    text: str
    is_password: bool
    secret: bool
    again: int = 0


AskPerson = Callable[[LoginPrompt], str | None]
"""Return the answer to a prompt; None: there is none, so the login ends."""
