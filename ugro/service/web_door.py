"""Where the dashboard is served, and the one-time codes of the links to it."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from ugro.service.schemas.web import Role

CODE_SECONDS = 60.0
"""Seconds for which a code of a link is good."""

CODES_KEPT = 100


@dataclass(frozen=True)
class NotServed:
    """Why a resident controller runs without HTTP, as the end of a sentence. `missed`: it was to serve it."""

    why: str
    missed: bool = False


class WebDoor:
    """The address of the dashboard, and the codes of links to it that were not used so far."""

    def __init__(self, url: str, host: str, port: int, now: Callable[[], float] = time.monotonic) -> None:
        self.url, self.host, self.port = url, host, port
        self._now = now
        self._codes: dict[str, tuple[Role, float]] = {}

    def mint(self, role: Role) -> str:
        """Return a new code."""
        code = secrets.token_urlsafe(24)
        self._codes[code] = (role, self._now() + CODE_SECONDS)
        while len(self._codes) > CODES_KEPT:
            del self._codes[next(iter(self._codes))]
        return code

    def redeem(self, code: str) -> Role | None:
        """Return the role of a code, which is used up by that; None: it is none, was used, or is over."""
        found = [known for known in self._codes if hmac.compare_digest(known.encode(), code.encode())]
        if not found:
            return None
        role, ends = self._codes.pop(found[0])
        return role if self._now() < ends else None
