"""`/metrics` of a resident controller, and a Prometheus that scrapes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from monitoring import HOSTILE, as_told, names, require_prometheus, samples
from places import EXAMPLES

from ugro.api_server import prometheus
from ugro.api_server.server import Listen
from ugro.common.errors import StateError
from ugro.common.models.job_state import JobState

from .conftest import Answer, Served, ask


async def scrape(served: Served, role: str = "token.view") -> Answer:
    headers = served.bearer | {"authorization": f"Bearer {served.token(role)}"}
    return await ask(served.app, "GET", "/metrics", headers)


async def ticks(served: Served, number: int = 1) -> None:
    """Wait until so many ticks are over."""
    since = served.store.counts.ticks.up_to()[-1]
    async with asyncio.timeout(60):
        while served.store.counts.ticks.up_to()[-1] < since + number:
            await served.store.bus.beats(served.store.bus.beat)


async def test_exposes_metrics_to_those_with_a_token(served: Served) -> None:
    await ticks(served)
    for role in ("token", "token.view"):
        answer = await scrape(served, role)
        assert answer.status == 200 and answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
        found = samples(answer.body)
        assert found["ugro_node_up", frozenset({("node", "here")})] == 1
        assert found["ugro_tick_seconds_count", frozenset()] >= 1
        assert {"ugro_build_info", "ugro_ws_clients", "ugro_jobs_total", "ugro_metrics_dropped"} <= names(found)
    assert (await ask(served.app, "GET", "/metrics", {"host": "127.0.0.1:8470"})).status == 401
    assert (await ask(served.app, "POST", "/metrics", served.bearer)).status == 405


async def test_exposes_a_job_and_how_it_ended(served: Served) -> None:
    job = served.submit("raise SystemExit(3)\n", name="first")
    await served.until(job.id, JobState.FAILED)
    await ticks(served)
    found = samples((await scrape(served)).body)
    ended = {dict(labels)["cause"]: value for (name, labels), value in found.items() if name == "ugro_jobs_total"}
    assert sum(ended.values()) == 1
    info = frozenset({("ugro_job", job.id), ("name", job.name), ("user", "")})
    assert found["ugro_job_info", info] == 1


async def test_is_made_once_a_tick_and_only_while_requests_come(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    read = served.serving.snapshot

    async def counted(clients: int) -> Any:
        nonlocal made
        made += 1
        return await read(clients)

    monkeypatch.setattr(served.serving, "snapshot", counted)
    await ticks(served, 2)
    assert made == 0
    for _ in range(50):
        assert (await scrape(served)).status == 200
    assert made < 25
    before = made
    await ticks(served, 3)
    assert before < made <= before + 6, "the next scrape finds it made"
    monkeypatch.setattr(prometheus, "KEEP_SECONDS", 0.0)
    await ticks(served, 3)
    before = made
    await ticks(served, 3)
    assert made == before


async def test_reports_an_unreadable_snapshot_and_reads_it_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ticks(served)
    assert (await scrape(served)).status == 200

    async def refused(_: int) -> Any:
        raise StateError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(served.serving, "snapshot", refused)
        async with asyncio.timeout(60):
            while (answer := await scrape(served)).status == 200:
                await ticks(served)
        assert answer.status == 503 and answer.json["error"]["message"] == "the disk is gone"
    assert (await scrape(served)).status == 200


# --- a real one ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def prometheus_of(folder: Path, target: str, token: str) -> AsyncIterator[str]:
    """Run Prometheus by the example's configuration, but for the target; give its address."""
    for file in (EXAMPLES / "monitoring").glob("*.yml"):
        (folder / file.name).write_text(
            file.read_text().replace("127.0.0.1:8470", target).replace("_interval: 15s", "_interval: 1s")
        )
    (folder / "ugro.token").write_text(token)
    with socket.create_server(("127.0.0.1", 0)) as ear:
        port = ear.getsockname()[1]
    options = (
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec("prometheus", *options, stdout=log, stderr=log, cwd=folder)
    try:
        async with asyncio.timeout(120):
            while not await asyncio.to_thread(answers, port):
                assert process.returncode is None, (folder / "log").read_text()
                await asyncio.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        shutil.rmtree(folder / "data", ignore_errors=True)


def answers(port: int) -> bool:
    """Whether a program listens there."""
    with socket.socket() as door:
        return door.connect_ex(("127.0.0.1", port)) == 0


async def answer_of(url: str, words: str) -> list[Any]:
    """Ask Prometheus until it has an answer."""

    def read() -> list[Any]:
        with urllib.request.urlopen(f"{url}/api/v1/{words}", timeout=10) as answer:
            data = json.load(answer)["data"]
            found: list[Any] = data["result"] if "result" in data else data["activeTargets"]
            return found

    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(urllib.error.HTTPError):  # it is not ready
                if found := await asyncio.to_thread(read):
                    return found
            await asyncio.sleep(0.2)


async def test_prometheus_scrapes_it_with_the_token_that_may_look(
    served: Served, listening: Listen, tmp_path: Path
) -> None:
    await asyncio.to_thread(require_prometheus)
    await ticks(served)
    served.store.counts.node_errors.add((HOSTILE, HOSTILE))
    async with prometheus_of(tmp_path, f"127.0.0.1:{listening.port}", served.token("token.view")) as url:
        [one] = await answer_of(url, "query?query=ugro_node_up")
        assert one["value"][1] == "1"
        assert {key: one["metric"][key] for key in ("job", "node")} == {"job": "ugro", "node": "here"}
        assert not [label for label in one["metric"] if label.startswith("exported_")]
        [hostile] = await answer_of(url, "query?query=ugro_ssh_errors_total")
        assert hostile["metric"]["kind"] == hostile["metric"]["node"] == as_told(HOSTILE)
        [target] = await answer_of(url, "targets")
        assert target["health"] == "up" and target["lastError"] == ""
