"""A cluster of its own for `ugro check --gpu`: this machine, and a state directory that is removed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from ugro.common.errors import NodeRefused, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.gpu import Gpu
from ugro.common.models.job import Job
from ugro.common.models.node import NodeView
from ugro.control_plane.metadata_store.records import pass_over
from ugro.control_plane.scheduler.submission import choose_code, submit
from ugro.nodes.remote.gpus import gpu_monitor
from ugro.nodes.transport import Transport
from ugro.service import ending
from ugro.service.context import Context
from ugro.service.schemas.ending import Cancel

NODE = "here"
SCRIPT = "gpu_job.py"
MARK = "gpu-check "
LAST_LINES = 12
POLL = 0.3
CLEAR_WITHIN = 30.0
"""Seconds for ending what still runs at the end."""


class Bench:
    """One node, this machine, and jobs on it."""

    def __init__(self, folder: Path, python: str) -> None:
        self.simulated = False
        """Whether jobs may compute on the CPU, since the GPUs are simulated."""
        self._folder = folder
        inventory = folder / "inventory.yaml"
        node = {"address": "127.0.0.1", "local": True, "python": python, "base_dir": str(folder / "node")}
        inventory.write_text(json.dumps({"nodes": {NODE: node | {"max_temperature": 150, "min_disk": 0}}}))
        self.context = Context(str(inventory), folder / "state")
        work = folder / "work"
        work.mkdir()
        text = files("ugro.control_plane.preflight.gpu_jobs").joinpath(SCRIPT).read_text(encoding="utf-8")
        (work / SCRIPT).write_text(text)
        with socket.create_server(("127.0.0.1", 0)) as free:  # of another user's job on this machine
            self._env = {"NCCL_RAS_ADDR": f"127.0.0.1:{free.getsockname()[1]}"}

    async def transport(self) -> Transport:
        """Return the way to this machine."""
        return (await self.context.reach()).pool[NODE]

    async def look(self) -> NodeView:
        """Return what nvidia-smi says now.

        Raises:
            NodeError: nothing that can be understood.
        """
        return await gpu_monitor.look(await self.transport())

    async def start(self, mode: str, *args: str, gpus: int | None = None) -> str:
        """Submit a job on all GPUs, or on some; return its id."""
        words = ("--mode", mode, *args, *(("--allow-cpu",) if self.simulated else ()))
        spec = JobSpec(
            script=SCRIPT,
            args=words,
            workdir=str(self._folder / "work"),
            nodes=(NODE,),
            gpus_per_node=gpus,
            env=self._env,
        )
        return (await asyncio.to_thread(submit, self.context.store, spec, choose_code(spec))).id

    async def ended(self, job: str, within: float) -> Job:
        """Return a job once it has ended, and what is proposed about it is decided.

        Raises:
            TimeoutError: it has not within so many seconds.
        """
        undecided = self.context.store.decisions.undecided
        async with asyncio.timeout(within):
            while True:
                await self.context.tick(job)
                now = self.context.store.jobs.job(job)
                if now.state.ended and job not in undecided():
                    return now
                await asyncio.sleep(POLL)

    async def said(self, job: str, key: str, number: int, within: float) -> list[dict[str, Any]]:
        """Return the results of a running job once so many of them have this key.

        Raises:
            TimeoutError: they do not within so many seconds. NodeRefused: the job ended before.
        """
        async with asyncio.timeout(within):
            while True:
                await self.context.tick(job)
                found = [result for result in self.results(job) if key in result]
                if len(found) >= number:
                    return found
                if self.context.store.jobs.job(job).state.ended:
                    raise NodeRefused(NODE, self.why(job))
                await asyncio.sleep(POLL)

    def results(self, job: str) -> list[dict[str, Any]]:
        """Return what the ranks of a job's last attempt reported."""
        found = []
        for line in self._lines(job):
            if line.startswith(MARK):
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line.removeprefix(MARK)))
        return [result for result in found if isinstance(result, dict)]

    def last_lines(self, job: str) -> tuple[str, ...]:
        """Return the last lines of a job's logs."""
        return tuple(self._lines(job)[-LAST_LINES:])

    def _lines(self, job: str) -> list[str]:
        record = self.context.store.jobs.job(job)
        run = self._folder / "node" / "jobs" / job / str(record.attempt) / "node-0"
        logs = sorted(run.glob("rank-*.log")) or sorted(run.glob("log"))
        return [line for log in logs for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]

    def why(self, job: str) -> str:
        """Return why a job has no result."""
        record = self.context.store.jobs.job(job)
        first = record.first_failure
        return first.message or first.cause if first else record.reason or f"it is {record.state.value}"

    async def cancel(self, job: str, within: float) -> float | None:
        """Cancel a job; return the seconds until it had ended, None if it has not within so many."""
        began = time.monotonic()
        await ending.cancel(self.context, Cancel(job=job))
        try:
            await self.ended(job, within)
        except TimeoutError:
            return None
        return time.monotonic() - began

    async def free(self, before: Sequence[Gpu], within: float, left_mib: int) -> tuple[float | None, int]:
        """Wait until GPUs use no more memory than before; return the seconds, and how many MiB more they use last."""
        began, used = time.monotonic(), {gpu.uuid: gpu.memory_used_mib or 0 for gpu in before}
        while True:
            gpus = (await self.look()).gpus
            left = max(((gpu.memory_used_mib or 0) - used.get(gpu.uuid, 0) for gpu in gpus), default=0)
            if left <= left_mib:
                return time.monotonic() - began, max(0, left)
            if time.monotonic() - began > within:
                return None, left
            await asyncio.sleep(POLL)

    async def end(self, job: str) -> None:
        """End a job if it still runs, whatever is in the way."""
        if not self.context.store.jobs.job(job).state.ended:
            with contextlib.suppress(UgroError):
                await self.cancel(job, CLEAR_WITHIN)

    async def clear(self) -> None:
        """End every job that is still there, and close."""
        try:
            for job in self.context.store.jobs.live(pass_over):
                await self.end(job.id)
        finally:
            await self.context.close()


@contextlib.asynccontextmanager
async def bench(python: str) -> AsyncIterator[Bench]:
    """A bench that leaves nothing: no file, no process."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="ugro-gpu-check-"))
    try:
        made = Bench(folder, python)
        try:
            yield made
        finally:
            await made.clear()
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
