"""What live views cost the resident controller: how late its loop is and what it computes, with 10 views and none.

The clients are a process of their own. The cluster has one node and 50 jobs; its ticks come twice a second, four times
as often as they usually do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from websockets.asyncio.client import connect

from benchmarks.report import Row
from ugro.api_server.server import Listen, bind, serving_web
from ugro.common.job_spec import JobSpec
from ugro.common.models.code_version import CodeVersion
from ugro.service.lag import LoopLag
from ugro.service.serving import Serving

VIEWS, JOBS = 10, 50
SECONDS, EVERY = 15.0, 0.5
LATE_LIMIT, CPU_LIMIT = 20.0, 0.2
"""Milliseconds by which the loop may be later with the views (99 of 100 times), and share of a core that they take."""

GROUP = f"ugro serve, {VIEWS} live views, {JOBS} jobs"


def measure() -> Iterator[Row]:
    """The rows of this benchmark."""
    with tempfile.TemporaryDirectory(prefix="ugro-bench-") as name:
        before = os.environ.get("UGRO_HOME")
        os.environ["UGRO_HOME"] = f"{name}/state"
        try:
            alone, watched = asyncio.run(_measured(Path(name)))
        finally:
            os.environ.pop("UGRO_HOME") if before is None else os.environ.update(UGRO_HOME=before)
    yield Row(GROUP, "the loop is late, no view (p99)", alone[0])
    yield Row(GROUP, f"the loop is late, {VIEWS} views (p99)", watched[0])
    yield Row(GROUP, "later by the views", max(0.0, watched[0] - alone[0]), limit=LATE_LIMIT)
    yield Row(GROUP, "of a core, no view", alone[1], "cores")
    yield Row(GROUP, "of a core for the views", max(0.0, watched[1] - alone[1]), "cores", CPU_LIMIT)


async def _measured(folder: Path) -> tuple[tuple[float, float], tuple[float, float]]:
    inventory = folder / "inventory.yaml"
    inventory.write_text(f"nodes: {{here: {{address: 127.0.0.1, local: true, base_dir: {folder}/node}}}}\n")
    serving = Serving(str(inventory), EVERY)
    store = serving.context().store
    for number in range(JOBS):
        spec = JobSpec(script="train.py", name=f"llama-7b-{number}", workdir=str(folder), hold=True)
        store.jobs.submit(store.jobs.reserve(), spec, CodeVersion(directory="/w", files=1, size_bytes=1), time.time())
    ear = bind(Listen("127.0.0.1", 0))
    listen = Listen("127.0.0.1", ear.getsockname()[1])
    with serving.alone():
        staying = asyncio.create_task(serving.stay())
        async with serving_web(serving, listen, ear):
            await asyncio.sleep(2)
            alone = await _late_and_busy()
            token = (serving.home / "token").read_text().strip()
            clients = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.web", listen.url.replace("http", "ws"), token
            )
            await asyncio.sleep(3)
            first = serving.board.numbers.last
            watched = await _late_and_busy()
            assert serving.board.numbers.last - first > SECONDS / EVERY / 2, "the views saw what changed"
            clients.terminate()
            await clients.wait()
        serving.stop()
        await staying
    return alone, watched


async def _late_and_busy() -> tuple[float, float]:
    """Return how late the loop is (99 of 100 times, in ms), and the share of a core that this process takes."""
    lag, cpu = LoopLag(), time.process_time()
    watching = asyncio.create_task(lag.watch())
    await asyncio.sleep(SECONDS)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return 1000 * (lag.quantile(0.99) or 0.0), (time.process_time() - cpu) / SECONDS


async def _watch(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(f"{url}/api/v1/live", additional_headers=headers, proxy=None, compression=None) as client:
        await client.send(json.dumps({"type": "subscribe", "topics": ["cluster", "job:job-001"]}))
        async for message in client:
            json.loads(message)


async def _watch_all(url: str, token: str) -> None:
    await asyncio.gather(*(_watch(url, token) for _ in range(VIEWS)))


if __name__ == "__main__":
    asyncio.run(_watch_all(*sys.argv[1:]))
