"""The guard: every route, every method, every kind of caller."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from ugro.api_server.guard import CONTENT_SECURITY_POLICY, Caller, Guard, Knock, cookie_name
from ugro.api_server.routes import API, ROUTERS, live
from ugro.api_server.tokens import Tokens
from ugro.service.schemas.web import Role

from .conftest import Answer, ask

HOST, PAGE = "127.0.0.1:8470", "http://127.0.0.1:8470"
OPERATE, VIEW = "operate-token-of-the-tests", "view-token-of-the-tests-too"
TOKENS = Tokens({Role.OPERATE: OPERATE, Role.VIEW: VIEW})
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get")
OPEN = ("/", "/healthz", "/static/1/app.js")


@functools.cache
def paths() -> list[str]:
    """The path of every route, with something in place of its parameters. Cached: a schema takes half a second."""
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router, prefix=API)
    found = [*app.openapi()["paths"], "/api/v1/openapi.json", "/metrics", "/api/v1/nosuch", "/static/1/../token"]
    return [path.replace("{job}", "job-001").replace("{node}", "gpu1") for path in (*OPEN, *found)]


def cookie(role: Role, port: int = 8470) -> str:
    return f"other=1; {cookie_name(port)}={TOKENS.cookie(role)}"


def bearer(token: str) -> str:
    return f"Bearer {token}"


NOBODY: dict[str, str] = {"host": HOST}
TOKEN = NOBODY | {"authorization": bearer(OPERATE)}
BROWSER = NOBODY | {"cookie": cookie(Role.OPERATE), "origin": PAGE, "x-ugro": "1", "sec-fetch-site": "same-origin"}

CALLERS: dict[str, tuple[dict[str, str], int, int]] = {
    # headers; the answer to a safe method, and to any other one, on a path that is not open (0: let in)
    "nobody": (NOBODY, 401, 401),
    "a wrong token": (NOBODY | {"authorization": bearer("wrong")}, 401, 401),
    "an empty token": (NOBODY | {"authorization": bearer("")}, 401, 401),
    "a token as a password": (NOBODY | {"authorization": f"Basic {OPERATE}"}, 401, 401),
    "a token in the cookie": (NOBODY | {"cookie": f"ugro-8470={OPERATE}"}, 401, 401),
    "the view token": (NOBODY | {"authorization": bearer(VIEW)}, 0, 403),
    "the token": (TOKEN, 0, 0),
    "the token of a foreign page": (TOKEN | {"origin": "http://evil.example"}, 0, 403),
    "the token of a page on another port": (TOKEN | {"origin": "http://127.0.0.1:8888"}, 0, 403),
    "the token of the page": (TOKEN | {"origin": PAGE}, 0, 0),
    "a browser": (BROWSER, 0, 0),
    "a browser that says no Origin but same-origin": ({k: v for k, v in BROWSER.items() if k != "origin"}, 0, 0),
    "a browser that may look": (BROWSER | {"cookie": cookie(Role.VIEW)}, 0, 403),
    "a browser without X-UGRO": ({k: v for k, v in BROWSER.items() if k != "x-ugro"}, 0, 403),
    "a browser without Origin": (NOBODY | {"cookie": cookie(Role.OPERATE), "x-ugro": "1"}, 0, 403),
    "a browser on a foreign page": (BROWSER | {"origin": "http://evil.example"}, 0, 403),
    "a browser on another port of this host": (BROWSER | {"origin": "http://127.0.0.1:8888"}, 0, 403),
    "a browser on this host without a port": (BROWSER | {"origin": "http://127.0.0.1"}, 0, 403),
    "a browser on this host by another name": (BROWSER | {"origin": "http://localhost:8470"}, 0, 403),
    "a browser with another scheme": (BROWSER | {"origin": "https://127.0.0.1:8470"}, 0, 403),
    "a browser with an opaque origin": (BROWSER | {"origin": "null"}, 0, 403),
    "a browser whose origin begins as ours": (BROWSER | {"origin": f"{PAGE}.evil.example"}, 0, 403),
    "a cookie of another port": (BROWSER | {"cookie": cookie(Role.OPERATE, 9000)}, 401, 401),
    "a changed cookie": (BROWSER | {"cookie": cookie(Role.VIEW).replace("=view.", "=operate.")}, 401, 401),
    "a foreign Host": (TOKEN | {"host": "evil.example:8470"}, 403, 403),
    "a Host that begins as ours": (TOKEN | {"host": "127.0.0.1.evil.example"}, 403, 403),
    "a Host with a user": (TOKEN | {"host": "evil@127.0.0.1:8470"}, 403, 403),
    "no Host": ({"authorization": bearer(OPERATE)}, 403, 403),
}


class Inner:
    """An application that notes who reached it."""

    def __init__(self) -> None:
        self.reached: list[Caller | None] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope["state"]["caller"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})


def guarded(hosts: tuple[str, ...] = ()) -> tuple[Guard, Inner]:
    inner = Inner()
    return Guard(inner, TOKENS, lambda: hosts, "`dashboard: {hosts: [NAME]}` in i.yaml", ["/static/1/app.js"]), inner


def is_let_in(inner: Inner) -> int:
    return len(inner.reached)


@pytest.mark.parametrize("caller", CALLERS)
async def test_every_route_by_every_method(caller: str) -> None:
    headers, to_safe, to_other = CALLERS[caller]
    wrong_host = to_safe == 403
    for path in paths():
        for method in METHODS:
            guard, inner = guarded()
            answer = await ask(guard, method, path, headers)
            safe = method in ("GET", "HEAD")
            expected = to_safe if safe else to_other
            if not wrong_host and ((safe and path in OPEN) or path == "/api/v1/login"):
                expected = 0 if safe or headers.get("origin", PAGE) == PAGE else 403
            assert (answer.status, is_let_in(inner)) == ((200, 1) if not expected else (expected, 0)), (method, path)
            assert answer.header("content-security-policy") == CONTENT_SECURITY_POLICY, (method, path)
            if expected and method != "HEAD":
                assert set(answer.json["error"]) == {"code", "message", "hint"} and answer.json["error"]["message"]


WITHOUT_ORIGIN = {k: v for k, v in BROWSER.items() if k not in ("origin", "sec-fetch-site")}
SOCKETS: dict[str, tuple[dict[str, str], int]] = {
    **{name: (headers, safe) for name, (headers, safe, _) in CALLERS.items() if safe or "Origin" in name},
    "the token": (TOKEN, 0),
    "the view token": (NOBODY | {"authorization": bearer(VIEW)}, 0),
    "the token of the page": (TOKEN | {"origin": PAGE}, 0),
    "the token of a foreign page": (TOKEN | {"origin": "http://evil.example"}, 403),
    "a browser": (BROWSER, 0),
    "a browser that may look": (BROWSER | {"cookie": cookie(Role.VIEW)}, 0),
    "a browser without X-UGRO": ({k: v for k, v in BROWSER.items() if k != "x-ugro"}, 0),
    "a browser without Origin": (WITHOUT_ORIGIN, 403),
    "a browser that says no Origin but same-origin": (WITHOUT_ORIGIN | {"sec-fetch-site": "same-origin"}, 403),
    "a browser on a foreign page": (BROWSER | {"origin": "http://evil.example"}, 403),
    "a browser on another port of this host": (BROWSER | {"origin": "http://127.0.0.1:8888"}, 403),
    "a browser with another scheme": (BROWSER | {"origin": "https://127.0.0.1:8470"}, 403),
    "a browser with an opaque origin": (BROWSER | {"origin": "null"}, 403),
}


@pytest.mark.parametrize("caller", SOCKETS)
async def test_every_handshake(caller: str) -> None:
    headers, expected = SOCKETS[caller]
    for path in ("/api/v1/live", "/", "/healthz", "/api/v1/login"):
        guard, inner = guarded()
        answer = await ask(guard, "GET", path, headers, type="websocket", scheme="ws")
        assert (answer.status, is_let_in(inner)) == ((expected, 0) if expected else (0, 1)), path


def test_the_live_route_is_the_only_socket() -> None:
    assert [getattr(route, "path", "") for route in live.router.routes] == ["/live"]
    assert not any(isinstance(route, APIRoute) for route in live.router.routes)


@pytest.mark.parametrize(
    ("host", "server", "allowed"),
    [
        ("localhost:8470", "127.0.0.1", True),
        ("LOCALHOST:8470", "127.0.0.1", True),
        ("localhost.", "127.0.0.1", True),
        ("[::1]:8470", "::1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("gpu-master.lan:8470", "127.0.0.1", True),
        ("GPU-Master.lan", "127.0.0.1", True),
        ("192.168.1.100:8470", "192.168.1.100", True),
        ("[fd00::5]:8470", "fd00::5", True),
        ("192.168.1.100:8470", "127.0.0.1", False),
        ("gpu-master.lan.evil.example", "127.0.0.1", False),
        ("evil.example", "evil.example", False),
        ("", "127.0.0.1", False),
        ("[::1", "::1", False),
        ("localhost:port", "127.0.0.1", False),
        ("localhost/x", "127.0.0.1", False),
    ],
)
async def test_names_of_this_server(host: str, server: str, allowed: bool) -> None:
    guard, inner = guarded(("gpu-master.lan",))
    answer = await ask(guard, "GET", "/healthz", {"host": host}, server=(server, 8470))
    assert answer.status == (200 if allowed else 403)
    if not allowed:
        assert answer.json["error"]["code"] == "host_not_allowed" and "i.yaml" in answer.json["error"]["hint"]
    assert is_let_in(inner) == allowed


def test_two_hosts_are_none() -> None:
    twice = [(b"host", b"127.0.0.1"), (b"host", b"127.0.0.1")]
    knock = Knock.of({"type": "http", "path": "/", "headers": twice})
    assert knock.one("host") is None and knock.host[0] == ""


async def test_wrong_tokens_are_counted_and_right_ones_are_not_kept_out() -> None:
    guard, _ = guarded()
    now = [100.0]
    guard._attempts._now = lambda: now[0]

    async def wrong(address: str = "10.0.0.9") -> Answer:
        headers = NOBODY | {"authorization": bearer("wrong")}
        return await ask(guard, "GET", "/api/v1/status", headers, client=(address, 5))

    assert [(await wrong()).status for _ in range(12)] == [401] * 10 + [429] * 2
    limited = await wrong()
    assert limited.header("retry-after") == "1" and limited.json["error"]["code"] == "too_many_attempts"
    assert (await wrong("10.0.0.8")).status == 401, "each client for itself"
    assert (await ask(guard, "GET", "/api/v1/status", TOKEN, client=("10.0.0.9", 5))).status == 200
    now[0] += 1.0
    assert [(await wrong()).status for _ in range(2)] == [401, 429], "one a second"
    now[0] += 61.0
    assert [(await wrong()).status for _ in range(11)] == [401] * 10 + [429]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-length": str(2**20)}, 200),
        ({"content-length": str(2**20 + 1)}, 413),
        ({"content-length": "9" * 5000}, 413),
        ({"content-length": "-1"}, 413),
        ({"transfer-encoding": "chunked"}, 411),
    ],
)
async def test_reads_no_body_without_an_end(headers: dict[str, str], status: int) -> None:
    guard, inner = guarded()
    for path, caller in (("/api/v1/login", NOBODY), ("/api/v1/jobs", TOKEN)):
        assert (await ask(guard, "POST", path, caller | headers)).status == status
    assert is_let_in(inner) == (2 if status == 200 else 0)


async def test_passes_the_caller_to_the_application() -> None:
    guard, inner = guarded()
    await ask(guard, "GET", "/api/v1/status", TOKEN)
    await ask(guard, "POST", "/api/v1/jobs", BROWSER)
    await ask(guard, "GET", "/", NOBODY)
    script, browser, nobody = inner.reached
    assert script == Caller(Role.OPERATE, False, "127.0.0.1") and nobody is None
    assert browser and replace(browser, name="") == Caller(Role.OPERATE, True, "127.0.0.1")
    assert str(browser) == "a browser (operate) from 127.0.0.1"
    assert BROWSER["cookie"].rpartition(".")[2] not in repr(browser), "what proves a cookie stays here"
