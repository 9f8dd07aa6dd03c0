"""Tokens of the API: files that only their owner reads, what each may do, and cookies that are made from them.

    $UGRO_HOME/token         may do everything (`operate`)
    $UGRO_HOME/token.view    may look (`view`): the one to give away

A cookie is signed with the token of its role: a new token ends all cookies of the old one, and a restart of the server
ends none.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ugro.common.errors import StateError
from ugro.common.files import FULL, FULL_HINT
from ugro.service.schemas.web import Role

TOKEN_BYTES = 32
SHORTEST = 16
"""Fewest characters of a token; the user may have chosen it."""

COOKIE_DAYS = 30

WRONG_A_MINUTE = 10
"""Wrong tokens that one client may send in a minute; after that one a second is answered as wrong, the others at once
as too many.
"""

CLIENTS_KNOWN = 1000
"""Clients whose wrong tokens are counted at a time."""


FILES = {Role.OPERATE: "token", Role.VIEW: "token.view"}


class Tokens:
    """The tokens of a state directory, by role."""

    def __init__(self, by_role: dict[Role, str], now: Callable[[], float] = time.time) -> None:
        self._by_role = by_role
        self._now = now

    @classmethod
    def of(cls, home: Path) -> Tokens:
        """Read the tokens of a state directory; what is missing is made.

        Raises:
            StateError: one cannot be read or made, is too short, or can be read by others.
        """
        return cls({role: _token(home / name) for role, name in FILES.items()})

    def role_of(self, token: str) -> Role | None:
        """Return what a token may do; None: it is none."""
        given = token.encode()
        found = [role for role, own in self._by_role.items() if hmac.compare_digest(own.encode(), given)]
        return found[0] if found else None

    def cookie(self, role: Role) -> str:
        """Return a new cookie of a role."""
        ends = int(self._now()) + COOKIE_DAYS * 86400
        said = f"{role.value}.{ends}.{secrets.token_urlsafe(12)}"
        return f"{said}.{self._signature(role, said)}"

    def role_of_cookie(self, cookie: str) -> Role | None:
        """Return what a cookie may do; None: it is none, or it is over."""
        said, _, signature = cookie.rpartition(".")
        name, _, rest = said.partition(".")
        ends = rest.partition(".")[0]
        if name not in list(Role) or not (ends.isascii() and ends.isdecimal() and len(ends) < 16):
            return None
        right = hmac.compare_digest(self._signature(Role(name), said).encode(), signature.encode())
        return Role(name) if right and int(ends) > self._now() else None

    def _signature(self, role: Role, said: str) -> str:
        return hmac.new(self._by_role[role].encode(), f"ugro cookie {said}".encode(), hashlib.sha256).hexdigest()


def _token(path: Path) -> str:
    try:
        if not path.exists():
            _make(path)
        mode, token = path.stat().st_mode, path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        hint = FULL_HINT if isinstance(error, OSError) and error.errno in FULL else f"remove it, and it is made: {path}"
        raise StateError(f"the token {path} cannot be used: {why}", hint) from None
    if mode & 0o077:
        raise StateError(f"the token {path} can be read by others", f"make it yours alone: chmod 600 {path}")
    if len(token) < SHORTEST:
        raise StateError(f"the token {path} has fewer than {SHORTEST} characters", f"a new one is made: rm {path}")
    return token


def _make(path: Path) -> None:
    """Make a token. Of two processes that do, one wins; no moment has half a file, or one that others can read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".tmp-{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


@dataclass
class _Wrong:
    times: deque[float]
    answered: float


class Attempts:
    """Counts the wrong tokens of each client."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._clients: OrderedDict[str, _Wrong] = OrderedDict()

    def too_many(self, client: str) -> bool:
        """Take note of a wrong token; return whether it is one too many, so that it is not even called wrong."""
        now = self._now()
        seen = self._clients.pop(client, None) or _Wrong(deque(), float("-inf"))
        self._clients[client] = seen
        while len(self._clients) > CLIENTS_KNOWN:
            self._clients.popitem(last=False)
        while seen.times and now - seen.times[0] >= 60.0:
            seen.times.popleft()
        if len(seen.times) < WRONG_A_MINUTE:
            seen.times.append(now)
        elif now - seen.answered < 1.0:
            return True
        seen.answered = now
        return False
