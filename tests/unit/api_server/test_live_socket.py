"""The live views over a real WebSocket."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ugro import __version__
from ugro.api_server.routes import live
from ugro.api_server.server import Listen
from ugro.common.models.job_state import JobState
from ugro.service.schemas.live import LiveChanges, LiveView
from ugro.service.schemas.web import Role

from .conftest import Served

STAYS = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"


def opened(served: Served, listen: Listen, token: str = "token", **more: Any) -> connect:
    headers = {"Authorization": f"Bearer {served.token(token)}"}
    url = f"{listen.url.replace('http', 'ws')}/api/v1/live"
    return connect(url, additional_headers=headers, compression=None, proxy=None, **more)


async def heard(client: ClientConnection, *types: str) -> dict[str, Any]:
    """Return the next message of these types."""
    async with asyncio.timeout(60):
        while True:
            message: dict[str, Any] = json.loads(await client.recv())
            if message["type"] in types:
                return message


async def subscribe(client: ClientConnection, *topics: str, **since: int) -> None:
    await client.send(json.dumps({"type": "subscribe", "topics": topics, "since": since}))


async def test_greets_then_sends_a_snapshot_and_what_changes(served: Served, listening: Listen) -> None:
    async with opened(served, listening) as client:
        hello = await heard(client, "hello", "snapshot", "delta")
        assert hello["version"] == __version__ and hello["epoch"] and hello["role"] == "operate"
        await subscribe(client, "cluster")
        first = await heard(client, "snapshot", "delta")
        assert (first["type"], first["topic"]) == ("snapshot", "cluster") and first["seq"] > hello["seq"]
        view, seq = LiveView.checked(first["data"]), first["seq"]
        served.submit(STAYS, name="watched")
        while not (job := view.jobs.get("job-001")) or job.state != JobState.RUNNING:
            delta = await heard(client, "snapshot", "delta")
            assert delta["type"] == "delta" and delta["seq"] > seq
            changes = LiveChanges.checked({"at": view.at} | delta["data"])
            view, seq = view.with_changes(changes), delta["seq"]
        assert job.name == "watched" and job.nodes == ("here",)
        await subscribe(client, "job:job-001")
        shown = await heard(client, "snapshot")
        assert shown["topic"] == "job:job-001" and shown["data"]["job"]["state"] == "running"
        assert shown["data"]["events"]["0"]["kind"] == "submitted" and "progress" in shown["data"]
        await served.post("/jobs/job-001/cancel")
        while (await heard(client, "delta"))["data"].get("job", {}).get("state") != "cancelled":
            pass


async def test_resumes_where_a_client_was(served: Served, listening: Listen) -> None:
    async with opened(served, listening) as client:
        await subscribe(client, "cluster")
        known = (await heard(client, "snapshot"))["seq"]
        await heard(client, "delta")
    async with opened(served, listening) as client:
        await subscribe(client, "cluster", cluster=known)
        assert (await heard(client, "snapshot", "delta"))["type"] == "delta"
    async with opened(served, listening) as client:
        await subscribe(client, "cluster", cluster=known - 1000)
        assert (await heard(client, "snapshot", "delta"))["type"] == "snapshot"


async def test_reads_nothing_without_a_subscriber(
    served: Served, listening: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read = served.serving.board._read

    async def counted(topic: str) -> Any:
        nonlocal reads
        reads += 1
        return await read(topic)

    monkeypatch.setattr(served.serving.board, "_read", counted)
    clients = [await opened(served, listening) for _ in range(5)]
    for client in clients:
        await subscribe(client, "cluster")
    found = {(await heard(client, "snapshot"))["seq"] for client in clients}
    assert len(found) <= 2 and reads <= 2, "one reading for all that begin together"
    for client in clients:
        await client.close()
    for _ in range(3):
        before = reads
        for _ in range(2):
            await served.store.bus.beats(served.store.bus.beat)
    assert reads == before


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "{}", '{"type":"subscribe"}', '{"type":"nosuch","topics":[]}', "[" * 10_000]
)
async def test_says_what_is_wrong_with_a_message_and_stays(served: Served, listening: Listen, text: str) -> None:
    async with opened(served, listening) as client:
        await client.send(text)
        error = (await heard(client, "error"))["error"]
        assert error["code"] == "malformed" and error["message"]
        await subscribe(client, "cluster")
        await heard(client, "snapshot")


async def test_says_what_is_wrong_with_a_topic(served: Served, listening: Listen) -> None:
    async with opened(served, listening) as client:
        await subscribe(client, "job:../../token", "job:job-404", "weather")
        found = [await heard(client, "error") for _ in range(3)]
        assert {one["topic"]: one["error"]["code"] for one in found}.keys() == {
            "job:../../token",
            "job:job-404",
            "weather",
        }
        odd = next(one["error"] for one in found if one["topic"] == "job:../../token")
        assert odd["message"] == "there is no job '../../token'" and "ugro status" in odd["hint"]


@pytest.mark.parametrize(("sent", "code"), [("x" * 70_000, 1009), (b"bytes", 1003)])
async def test_ends_a_socket_that_sends_too_much_or_bytes(
    served: Served, listening: Listen, sent: str | bytes, code: int
) -> None:
    async with opened(served, listening) as client:
        await client.send(sent)
        with pytest.raises(ConnectionClosed):
            while True:
                await heard(client, "snapshot")
        assert client.close_code == code


async def test_ends_a_socket_that_asks_too_often(served: Served, listening: Listen) -> None:
    async with opened(served, listening) as client:
        with pytest.raises(ConnectionClosed):
            for _ in range(live.MESSAGES_A_SECOND * 3):
                await subscribe(client)
            await heard(client, "snapshot")
        assert client.close_code == 1008 and "20 messages" in (client.close_reason or "")


async def test_lets_in_so_many(served: Served, listening: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SOCKETS_A_CLIENT", 2)
    async with opened(served, listening), opened(served, listening):
        with pytest.raises(InvalidStatus) as caught:
            await opened(served, listening)
        assert caught.value.response.status_code == 429
        assert json.loads(caught.value.response.body or b"")["error"]["code"] == "too_many_sockets"
    async with opened(served, listening) as client:
        await heard(client, "hello")


async def test_the_guard_stands_before_it(served: Served, listening: Listen) -> None:
    url = f"{listen_ws(listening)}/api/v1/live"
    for headers, origin, status in (
        ({}, None, 401),
        ({"Authorization": "Bearer wrong"}, None, 401),
        ({"Authorization": f"Bearer {served.token('token')}"}, "http://evil.example", 403),
        ({"Cookie": f"ugro-{listening.port}={served.tokens.cookie(Role.OPERATE)}"}, None, 403),
    ):
        with pytest.raises(InvalidStatus) as caught:
            await connect(url, additional_headers=headers, origin=origin, proxy=None)
        assert caught.value.response.status_code == status
        assert json.loads(caught.value.response.body or b"")["error"]["message"]


def listen_ws(listen: Listen) -> str:
    return listen.url.replace("http", "ws")


async def test_beats_where_nothing_changes(served: Served, listening: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BEAT_SECONDS", 0.2)
    async with opened(served, listening) as client:
        await heard(client, "beat")


async def test_drops_a_client_that_does_not_read(
    served: Served, listening: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "DRAIN_WITHIN", 0.3)
    monkeypatch.setattr("ugro.api_server.server.LINGER", 0.1)
    large = {"problems": {"x" * 100_000: 1}}

    async def read(_: str) -> Any:
        return {"at": served.store.bus.beat, **large, "more": {str(served.store.bus.beat): "y" * 2_000_000}}

    monkeypatch.setattr(served.serving.board, "_read", read)
    loop = asyncio.get_running_loop()
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # full soon
    plain.setblocking(False)
    await loop.sock_connect(plain, (listening.host, listening.port))
    lines = [
        "GET /api/v1/live HTTP/1.1",
        f"Host: {listening.host}:{listening.port}",
        f"Authorization: Bearer {served.token('token')}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    await loop.sock_sendall(plain, ("\r\n".join(lines) + "\r\n\r\n").encode())
    said = b""
    while b"hello" not in said:  # what comes before the socket is accepted is not heard
        said += await loop.sock_recv(plain, 4096)
    text = json.dumps({"type": "subscribe", "topics": ["cluster"]}).encode()
    masked = bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text
    await loop.sock_sendall(plain, masked)
    async with asyncio.timeout(60):
        while not served.web.sockets:
            await served.store.bus.beats(served.store.bus.beat)
        while served.web.sockets:
            await served.store.bus.beats(served.store.bus.beat)
    plain.close()


async def test_nothing_stays_of_closed_sockets(served: Served, listening: Listen) -> None:
    before = len(asyncio.all_tasks())
    for _ in range(40):
        async with opened(served, listening) as client:
            await subscribe(client, "cluster", "job:job-404")
            await heard(client, "snapshot")
    async with asyncio.timeout(60):  # connections take a moment to be gone
        while served.web.sockets or len(asyncio.all_tasks()) > before + 3:
            await served.store.bus.beats(served.store.bus.beat)
    topics = served.serving.board._topics
    assert len(topics) == 2 and not any(topic.watchers or topic._reading for topic in topics.values())
