"""What tabs of the dashboard cost a `ugro serve` of its own: memory after 1,000 of them, and CPU while jobs print.

A tab does what the page of a job does: it has a live view of the cluster and the job, and asks for the end of the log
every two seconds (half of the tabs) or for the curves every three (the others). A job of this machine prints 3,000
lines a second, with four values a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil
from websockets.asyncio.client import connect

from benchmarks.report import Row
from ugro.common.job_spec import JobSpec
from ugro.common.models.job_state import JobState
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.scheduler.submission import choose_code, submit
from ugro.testing.cluster import write_python

LINES_PER_SECOND, TABS, AT_ONCE = 3000, 10, 15
WARM, HALF, ALL = 200, 600, 1000
"""Tabs opened and closed until the memory is looked at."""

SECONDS, PATIENCE = 20.0, 120.0
LOOKS = (("logs?count=250", 2.0), ("metrics?x=step&pixels=900", 3.0))
"""What the page of a job asks for again and again, by its part that is open, and after how many seconds."""

CPU_LIMIT, GROWTH_LIMIT = 0.2, 4.0
"""Share of a core that ten tabs may take, and MiB by which the process may grow from the 200th to the 1,000th tab."""

GROUP = f"ugro serve as a process, a job that prints {LINES_PER_SECOND:,} lines/s"
QUIET = "ugro serve as a process, nothing runs"

PRINTS = f"""\
import sys, time
begin, step = time.monotonic(), 0
while True:
    until = int({LINES_PER_SECOND} * (time.monotonic() - begin))
    while step < until:
        step += 1
        print(f"step {{step}}/9000000 | loss {{10 / step:.6f}} | lr 3.0e-04 | grad_norm 0.5 | tokens/s 12345")
    sys.stdout.flush()
    time.sleep(0.02)
"""


def measure() -> Iterator[Row]:
    """The rows of this benchmark."""
    with tempfile.TemporaryDirectory(prefix="ugro-bench-") as name:
        rows = asyncio.run(_measured(Path(name)))
    yield from rows


@dataclass(frozen=True)
class _Serve:
    """The process that is measured, where it serves, and the job that prints."""

    process: psutil.Process
    url: str
    token: str
    job: str

    @property
    def mib(self) -> float:
        return float(self.process.memory_info().rss) / 2**20

    async def busy(self) -> float:
        """The share of a core that it takes, without the processes that it starts."""
        before = self.process.cpu_times()
        await asyncio.sleep(SECONDS)
        after = self.process.cpu_times()
        return float(after.user + after.system - before.user - before.system) / SECONDS


async def _measured(folder: Path) -> list[Row]:
    async with _serving(folder) as serve:
        await asyncio.sleep(5)
        alone = await serve.busy()
        clients = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.tabs", serve.url, serve.token, serve.job
        )
        try:
            await asyncio.sleep(5)
            watched = await serve.busy()
            assert clients.returncode is None, "the tabs stayed"
        finally:
            with contextlib.suppress(ProcessLookupError):
                clients.terminate()
            await clients.wait()
    async with _serving(folder, prints=False) as serve:
        sizes = await _opened_and_closed(serve)
    told = ", ".join(f"{count:,}: {size:.1f}" for count, size in sizes.items())
    return [
        Row(GROUP, "of a core, no tab", alone, "cores"),
        Row(GROUP, f"of a core for {TABS} tabs", max(0.0, watched - alone), "cores", CPU_LIMIT),
        Row(QUIET, "memory", sizes[ALL], "MiB", note=f"MiB after so many tabs: {told}"),
        Row(
            QUIET,
            f"grown from the {WARM}th tab to the {ALL:,}th",
            sizes[ALL] - sizes[WARM],
            "MiB",
            GROWTH_LIMIT,
        ),
    ]


async def _opened_and_closed(serve: _Serve) -> dict[int, float]:
    """The memory of the process by the number of live views that were opened and closed."""
    sizes, done = {0: serve.mib}, 0
    for goal in (WARM, HALF, ALL):
        while done < goal:
            count = min(AT_ONCE, goal - done)
            await asyncio.gather(*(_glance(serve) for _ in range(count)))
            done += count
        await asyncio.sleep(2)
        sizes[goal] = serve.mib
    return sizes


async def _glance(serve: _Serve) -> None:
    """Open a live view, take the snapshots, and leave."""
    async with asyncio.timeout(PATIENCE), _live(serve.url, serve.token) as client:
        topics = ["cluster", f"job:{serve.job}"]
        await client.send(json.dumps({"type": "subscribe", "topics": topics}))
        missing = {*topics}
        while missing:
            message = json.loads(await client.recv())
            if message["type"] == "snapshot":
                missing.discard(message["topic"])


def _live(url: str, token: str) -> connect:
    headers = {"Authorization": f"Bearer {token}"}
    return connect(
        f"ws{url.removeprefix('http')}/api/v1/live", additional_headers=headers, proxy=None, compression=None
    )


@contextlib.asynccontextmanager
async def _serving(folder: Path, prints: bool = True) -> AsyncIterator[_Serve]:
    """Run it in a state directory of its own, with a job that prints, or waits on hold."""
    home = folder / ("prints" if prints else "waits")
    project, state = home / "project", home / "state"
    project.mkdir(parents=True)
    (project / "train.py").write_text(PRINTS)
    inventory, python = home / "inventory.yaml", write_python(home / "python")
    node = f"{{address: 127.0.0.1, local: true, python: {python}, base_dir: {home}/node}}"
    inventory.write_text(f"nodes: {{here: {node}}}\n")
    store = MetadataStore(state)
    spec = JobSpec(script="train.py", workdir=str(project), hold=not prints, nodes=1)
    job = submit(store, spec, choose_code(spec)).id
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ugro", "--inventory", str(inventory), "serve", "--listen", "127.0.0.1:0", "--json",
        env=os.environ | {"UGRO_HOME": str(state)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            while not (url := _url_of(process.pid)) or not (state / "token").exists():
                await asyncio.sleep(0.2)
            while prints and store.jobs.job(job).state != JobState.RUNNING:
                await asyncio.sleep(0.2)
        yield _Serve(psutil.Process(process.pid), url, (state / "token").read_text().strip(), job)
    finally:
        if prints:
            await _ugro(inventory, state, "cancel", job)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _ugro(inventory: Path, state: Path, *words: str) -> None:
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ugro", "--inventory", str(inventory), *words,
        env=os.environ | {"UGRO_HOME": str(state)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    await command.wait()


def _url_of(pid: int) -> str:
    """Where a process listens over TCP; empty: nowhere so far."""
    found = [one.laddr for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    return f"http://127.0.0.1:{found[0].port}" if found else ""


async def _tab(url: str, token: str, job: str, path: str, every: float) -> None:
    """Watch a job until the end of the process, as its page does."""

    async def look() -> None:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(base_url=f"{url}/api/v1/jobs/{job}", headers=headers, trust_env=False) as http:
            while True:
                (await http.get(f"/{path}", timeout=PATIENCE)).raise_for_status()
                await asyncio.sleep(every)

    async def read() -> None:
        async with _live(url, token) as client:
            await client.send(json.dumps({"type": "subscribe", "topics": ["cluster", f"job:{job}"]}))
            async for message in client:
                json.loads(message)

    await asyncio.gather(look(), read())


async def _tabs(url: str, token: str, job: str) -> None:
    await asyncio.gather(*(_tab(url, token, job, *LOOKS[number % len(LOOKS)]) for number in range(TABS)))


if __name__ == "__main__":
    asyncio.run(_tabs(*sys.argv[1:]))
