"""Checks who may do what: every request and every WebSocket handshake passes here before any other code sees it.

Rules, in this order. The first one that is broken answers.

1. The Host is one of this server's names (no page of a foreign name that resolves to this machine gets in).
2. The page itself, its files and `/healthz` are open; everything else needs a token or the cookie of a login.
3. A foreign Origin changes nothing and opens no WebSocket, whatever it knows. Equal means scheme, host and port:
   cookies ignore the port, so a notebook on another port of this machine is no stranger to them.
4. Every method but GET and HEAD is denied unless it comes with a token, or from this origin with the header `X-UGRO`.
5. Every method but GET and HEAD needs the role `operate`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from ugro.api_server.tokens import Attempts, Tokens
from ugro.service.schemas.web import Role

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE_METHODS = ("GET", "HEAD")
OPEN_PATHS = ("/", "/healthz", "/favicon.ico")
STATIC = "/static/"
LOGIN = "/api/v1/login"
OWN_NAMES = ("localhost", "127.0.0.1", "::1")
BODY_BYTES = 1_048_576
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)


@dataclass(frozen=True)
class Caller:
    """A client: its role, how it proved it, and its address. `name` distinguishes clients of one address."""

    role: Role
    by_cookie: bool
    address: str
    name: str = ""

    def __str__(self) -> str:
        return f"{'a browser' if self.by_cookie else 'a token'} ({self.role.value}) from {self.address or 'nowhere'}"


@dataclass(frozen=True)
class Refusal:
    """Why a request is not let in."""

    status: int
    code: str
    message: str
    hint: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class Knock:
    """What of a request matters here."""

    kind: str
    method: str
    path: str
    scheme: str
    address: str
    server: str
    headers: dict[str, list[str]] = field(repr=False)

    @classmethod
    def of(cls, scope: Scope) -> Knock:
        """Return what matters of an ASGI scope."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        client, server = scope.get("client"), scope.get("server")
        return cls(
            scope["type"],
            scope.get("method", "GET"),
            scope["path"],
            scope.get("scheme", "http"),
            client[0] if client else "",
            server[0] if server else "",
            headers,
        )

    def one(self, name: str) -> str | None:
        """Return a header; None: it is not there, or is there twice, and so says nothing."""
        found = self.headers.get(name, [])
        return found[0] if len(found) == 1 else None

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return self.kind == "http" and self.method not in SAFE_METHODS

    @property
    def host(self) -> tuple[str, int | None]:
        """The name and the port that it is addressed to."""
        return _host_and_port(self.one("host") or "", self.scheme)

    @property
    def is_from_here(self) -> bool | None:
        """Whether its Origin is this server, under the name it is addressed to; None: it names none."""
        if "origin" not in self.headers:
            return None
        return _origin(self.one("origin") or "") == (_http(self.scheme), *self.host)


def cookie_name(port: int | None) -> str:
    """Return the cookie's name. It has the port: cookies of one host are shared by all of its ports."""
    return f"ugro-{port}"


class Guard:
    """Lets in, or answers itself; adds the headers that every answer has."""

    def __init__(
        self,
        app: Application,
        tokens: Tokens,
        hosts: Callable[[], Iterable[str]],
        setting: str,
        open_paths: Collection[str] = (),
    ) -> None:
        """`hosts` are names of this server beside its usual ones; `setting` says in messages where they are named.

        `open_paths` are those of the page's files.
        """
        self._app, self._tokens, self._hosts, self._setting = app, tokens, hosts, setting
        self._open = {*OPEN_PATHS, *open_paths}
        self._attempts = Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        knock = Knock.of(scope)
        found = self.judge(knock) if (refusal := _too_large(knock)) is None else refusal
        if isinstance(found, Refusal):
            await _refuse(scope, send, found)
            return
        scope.setdefault("state", {})["caller"] = found
        await self._app(scope, receive, send if scope["type"] == "websocket" else _with_headers(send))

    def judge(self, knock: Knock) -> Caller | Refusal | None:
        """Return who asks, or why that is refused; None: an open path, for any caller."""
        if refusal := self._wrong_host(knock):
            return refusal
        if knock.kind == "http" and not knock.changes and knock.path in self._open:
            return None
        if refusal := _foreign(knock):
            return refusal
        if knock.kind == "http" and knock.path == LOGIN:
            return None
        caller = self._caller(knock)
        if isinstance(caller, Refusal):
            return caller
        return _not_allowed(knock, caller) or caller

    def wrong_token(self, address: str) -> Refusal:
        """Return the answer to a client that sent a wrong token or code, and count it."""
        if self._attempts.too_many(address):
            hint = "wait a second between attempts"
            return Refusal(429, "too_many_attempts", "too many wrong tokens", hint, ((b"retry-after", b"1"),))
        return _unknown("the token is wrong", "it is in the file `token` of the state directory, or: ugro dashboard")

    def _wrong_host(self, knock: Knock) -> Refusal | None:
        name = knock.host[0]
        own = {*OWN_NAMES, *(_bare(host) for host in self._hosts())}
        if knock.server and _is_address(name) and name == _bare(knock.server):
            return None  # the very address that it came to: no foreign name resolved to it
        if name and name in own:
            return None
        shown = (knock.one("host") or "")[:100]
        hint = f"if this server is meant to have that name, add it to {self._setting}"
        return Refusal(403, "host_not_allowed", f"the Host {shown!r} is none of this server's names", hint)

    def _caller(self, knock: Knock) -> Caller | Refusal:
        if "authorization" in knock.headers:
            scheme, _, token = (knock.one("authorization") or "").partition(" ")
            role = self._tokens.role_of(token.strip()) if scheme.lower() == "bearer" else None
            return Caller(role, False, knock.address) if role else self.wrong_token(knock.address)
        cookie = _cookie(knock, cookie_name(knock.host[1]))
        if cookie is None:
            header = '-H "Authorization: Bearer $(cat ${UGRO_HOME:-~/.ugro}/token)"'
            hint = f"open the dashboard again: ugro dashboard; in scripts: {header}"
            return _unknown("a token is needed", hint)
        if role := self._tokens.role_of_cookie(cookie):
            return Caller(role, True, knock.address, cookie.rpartition(".")[0])
        refused = self.wrong_token(knock.address)
        if refused.status == 401:
            return _unknown("the login is over", "open the dashboard again: ugro dashboard")
        return refused


def _too_large(knock: Knock) -> Refusal | None:
    """Return why a body is not read: its length is not said, or is more than any route takes."""
    if knock.kind == "http" and "transfer-encoding" in knock.headers:
        return Refusal(411, "length_needed", "the length of the body is needed", "send it with Content-Length")
    length = knock.one("content-length") or "0"
    if length.isascii() and length.isdecimal() and len(length) < 16 and int(length) <= BODY_BYTES:
        return None
    return Refusal(413, "too_large", f"the body has more than {BODY_BYTES} bytes")


def _foreign(knock: Knock) -> Refusal | None:
    """Rule 3."""
    if (knock.changes or knock.kind == "websocket") and knock.is_from_here is False:
        shown = (knock.one("origin") or "")[:100]
        message = f"a page of {shown!r} may not use this server"
        return Refusal(
            403, "origin_not_allowed", message, "only the dashboard of this very address, port included, may"
        )
    return None


def _not_allowed(knock: Knock, caller: Caller) -> Refusal | None:
    """Rules 4 and 5, for who is known."""
    if knock.kind == "websocket":
        if caller.by_cookie and not knock.is_from_here:
            return Refusal(403, "origin_needed", "the Origin header is missing", "with a token none is needed")
        return None
    if not knock.changes:
        return None
    if caller.by_cookie:
        from_here = knock.is_from_here or (knock.is_from_here is None and knock.one("sec-fetch-site") == "same-origin")
        if not from_here:
            return Refusal(403, "origin_needed", "the Origin header is missing", "with a token none is needed")
        if knock.one("x-ugro") != "1":
            return Refusal(403, "header_needed", "the header `X-UGRO: 1` is missing", "with a token none is needed")
    if caller.role != Role.OPERATE:
        hint = "the file `token` of the state directory has the token that may"
        return Refusal(403, "role", f"the role {caller.role.value} changes nothing", hint)
    return None


def _unknown(message: str, hint: str) -> Refusal:
    return Refusal(401, "not_logged_in", message, hint, ((b"www-authenticate", b'Bearer realm="ugro"'),))


def _cookie(knock: Knock, name: str) -> str | None:
    for line in knock.headers.get("cookie", []):
        try:
            found = SimpleCookie(line).get(name)
        except CookieError:
            continue
        if found:
            return found.value
    return None


def _host_and_port(text: str, scheme: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{text}")
        if parts.username is not None or parts.path or parts.query or parts.fragment:
            return "", None
        return (parts.hostname or "").rstrip("."), parts.port or DEFAULT_PORTS.get(scheme)
    except ValueError:
        return "", None


def _origin(text: str) -> tuple[str, str, int | None] | None:
    scheme, found, rest = text.partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        return None
    return scheme.lower(), *_host_and_port(rest, scheme.lower())


def _http(scheme: str) -> str:
    return {"ws": "http", "wss": "https"}.get(scheme, scheme)


def _bare(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdecimal()


# --- answers ---------------------------------------------------------------------------------------------------------


def error_body(code: str, message: str, hint: str = "", **more: Any) -> bytes:
    """Return the body of an answer that is an error."""
    return json.dumps({"error": {"code": code, "message": message, "hint": hint}, **more}).encode()


async def _refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    body = error_body(refusal.code, refusal.message, refusal.hint)
    kind = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.message[:100]})
            return
        kind = "websocket.http.response"
    own = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    headers = [*own, (b"content-length", str(len(body)).encode()), *refusal.headers, *HEADERS]
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body})


def _with_headers(send: Send) -> Send:
    async def send_all(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            known = {name.lower() for name, _ in headers}
            extra = [*HEADERS, (b"cache-control", b"no-store")]
            message["headers"] = headers + [(name, value) for name, value in extra if name not in known]
        await send(message)

    return send_all
