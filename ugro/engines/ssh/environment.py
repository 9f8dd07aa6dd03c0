"""Finds the Python of a job on each of its nodes, and runs its setup command there: once for each content and storage.

What runs is not this process's: it outlives it, and the next look, of whichever process, finds how far it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from ugro.common.clock import Clock
from ugro.common.errors import NodeError, NodeRefused, SetupFailed
from ugro.common.job_spec import INPUTS, JobSpec
from ugro.common.masking import Masker
from ugro.common.models.job import Job
from ugro.common.paths import RunPaths
from ugro.common.text import duration, printable, some
from ugro.engines.base import Cargo, OnPhase
from ugro.nodes.pool import Pool
from ugro.nodes.remote.logs.log_streamer import append_output, setup_copy
from ugro.nodes.remote.run.process_manager import merged_env, run_token
from ugro.nodes.remote.setup.setup import (
    ENVIRONMENTS,
    JobInterpreters,
    NodeSetup,
    SetupSeen,
    find_python,
    look_at_setup,
)
from ugro.nodes.transport import Transport

PAUSE, LONGEST_PAUSE = 0.2, 2.0
"""Seconds between two checks of a setup, at first and later: frequent checks do not make a long one faster."""

LOG_LIMIT = 16 * 1024 * 1024
"""Bytes of a setup's output on one node that are kept on the master. The rest is on the node."""

LAST_WORDS = 300
"""Characters of the last line that a failed setup printed."""


class EnvironmentMaker:
    """Finds and makes what jobs run with."""

    def __init__(self, pool: Pool, clock: Clock, paths: Callable[[Job, str], RunPaths]) -> None:
        self._pool = pool
        self._clock = clock
        self._paths = paths

    async def find(self, job: Job, spec: JobSpec) -> JobInterpreters:
        """Find the Python that a job asks for; one that its setup makes is not there so far.

        Raises:
            NodeError: a node lacks it, or cannot be asked.
        """
        return JobInterpreters(await find_pythons(self._pool, job, spec))

    async def rehearse(self, job: Job, spec: JobSpec) -> JobInterpreters:
        """The same, of a job of which nothing may be written on its nodes.

        Raises:
            NodeError: a node lacks it, or cannot be asked.
        """
        if not spec.python_from_setup:
            return await self.find(job, spec)
        folders = {node: f"{self._paths(job, node).base_dir}/{ENVIRONMENTS}/DIGEST/env" for node in job.nodes}
        return JobInterpreters({node: _python_in(folder) for node, folder in folders.items()}, folders, made=False)

    async def set_up(
        self, job: Job, spec: JobSpec, cargo: Cargo, storages: Mapping[str, str], found: JobInterpreters
    ) -> JobInterpreters:
        """Run the setup of a job whose code is on its nodes, and follow it to its end.

        Raises:
            SetupFailed: it failed on a node. NodeError: a node cannot be asked; a setup there keeps running.
        """
        assert spec.setup
        setups: dict[str, NodeSetup] = {}
        for node in job.nodes:
            config, paths = job.node_configs.get(node), self._paths(job, node)
            inventory = {} if config is None else config.env
            python = found.pythons.get(node, "")
            known = python or (config.python if config else "")
            source = spec.python if spec.python_from_setup and spec.python else known
            setups[node] = NodeSetup(
                digest=await asyncio.to_thread(digest, spec, source, cargo.code),
                paths=paths,
                run=run_token(job.uid, paths),
                command=spec.setup.run,
                timeout=spec.setup.timeout,
                python=known,
                env=dict(merged_env(inventory, spec.env)),
                secrets=cargo.secrets,
            )
        first = {(storages[node], setup.digest): node for node, setup in reversed(setups.items())}
        runs = {node: setup for node, setup in setups.items() if first[storages[node], setup.digest] == node}
        folders = await set_up(self._pool, job, runs, cargo.logs, cargo.on_phase, self._clock)
        for node in setups.keys() - runs.keys():  # which may have the same storage at another path
            folders[node] = (
                await look_at_setup(_transport(self._pool, job, node), setups[node], 2**60, start=False)
            ).env
        pythons = dict(found.pythons)
        if spec.python_from_setup:
            pythons = {node: _python_in(folder) for node, folder in folders.items()}
        return JobInterpreters(pythons, folders)


def _python_in(folder: str) -> str:
    return f"{folder}/bin/python"


def _transport(pool: Pool, job: Job, node: str) -> Transport:
    config = job.node_configs.get(node)
    return pool.transport(config) if config else pool[node]


async def find_pythons(pool: Pool, job: Job, spec: JobSpec) -> dict[str, str]:
    """Find the Python that the job asks for on each of its nodes; none where that comes from its setup.

    Raises:
        NodeError: a node lacks it, or cannot be asked. The message names all of those that lack it.
    """
    python = spec.python
    if python is None or spec.python_from_setup:
        return {}
    answers = await pool.each(job.nodes, lambda transport: find_python(transport, python), configs=job.node_configs)
    lacking = [answer for answer in answers.values() if isinstance(answer, NodeRefused)]
    for answer in answers.values():
        if isinstance(answer, NodeError) and not isinstance(answer, NodeRefused):
            raise answer
    if lacking:
        first = lacking[0]
        alike: dict[str, list[str]] = {}
        for one in lacking[1:]:
            alike.setdefault(one.problem, []).append(one.node)
        same = alike.pop(first.problem, [])
        words = [first.problem, *(f"on {', '.join(nodes)}: {problem}" for problem, nodes in alike.items())]
        words += [f"the same on {', '.join(same)}"] if same else []
        raise NodeRefused(first.node, "; ".join(words), first.hint)
    return {node: answer for node, answer in answers.items() if isinstance(answer, str)}


def digest(spec: JobSpec, python: str, code: Path) -> str:
    """Return what names an environment: its command, its Python, and the content of the files that it depends on.

    Raises:
        OSError: the code cannot be read.
    """
    assert spec.setup
    names = INPUTS if spec.setup.inputs is None else spec.setup.inputs
    found = hashlib.sha256()
    for part in ("setup 1", spec.setup.run, python):
        found.update(part.encode() + b"\0")
    for name in names:
        if (code / name).is_file():
            content = hashlib.sha256((code / name).read_bytes()).hexdigest()
            found.update(f"{name}\0{content}\0".encode())
    return found.hexdigest()[:32]


async def set_up(
    pool: Pool,
    job: Job,
    setups: Mapping[str, NodeSetup],
    logs: Path | None,
    on_phase: OnPhase | None,
    clock: Clock,
) -> dict[str, str]:
    """Run setups, each on its node, until all are done. Return the folders that they filled, by node.

    Copies of their output grow in `logs`. `on_phase` is called with what is set up where: before anything begins, and
    when that changes.

    Raises:
        SetupFailed: one failed. NodeError: a node cannot be asked; a setup there keeps running.
    """
    followed = _Followed(pool, job, setups, logs, on_phase, clock)
    return await followed.until_done()


class _Followed:
    """The setups of one attempt."""

    def __init__(
        self,
        pool: Pool,
        job: Job,
        setups: Mapping[str, NodeSetup],
        logs: Path | None,
        on_phase: OnPhase | None,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._job = job
        self._setups = setups
        self._logs = logs
        self._on_phase = on_phase
        self._clock = clock
        self._left: dict[str, str] = {}
        """The nodes where it is not done, with the job that does it, where that is another one."""
        self._told, self._told_at = "", -math.inf

    async def until_done(self) -> dict[str, str]:
        done = {node: await self._look(node, start=False) for node in self._setups}
        self._left = {node: "" for node, seen in done.items() if seen.state != "done"}
        began = self._clock.monotonic()
        await self._tell()
        tasks = {asyncio.create_task(self._follow(node)): node for node in self._left}
        try:
            while tasks:
                ended, _ = await asyncio.wait(tasks, timeout=PAUSE, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(ended, key=lambda task: self._job.nodes.index(tasks[task])):
                    node = tasks.pop(task)
                    done[node] = task.result()
                    del self._left[node]
                await self._tell()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._told and self._on_phase:
            await self._on_phase("", f"setup done in {duration(self._clock.monotonic() - began)}")
        return {node: seen.env for node, seen in done.items()}

    async def _tell(self) -> None:
        """Say where it is under way, and who does it."""
        words = []
        for other in dict.fromkeys(self._left.values()):
            nodes = some([node for node, job in self._left.items() if job == other])
            command = some(list(dict.fromkeys(self._setups[node].words for node in self._left)))
            words.append(f"setup on {nodes}" + (f", which {other} runs" if other else "") + f": {command}")
        now, said = self._clock.monotonic(), "; ".join(words)
        if said and self._on_phase and said != self._told and now - self._told_at >= LONGEST_PAUSE:
            self._told, self._told_at = said, now  # nodes that are done within a moment are no news each
            await self._on_phase(said, said)

    async def _follow(self, node: str) -> SetupSeen:
        pause = PAUSE
        while (seen := await self._look(node, start=True)).state != "done":
            if seen.state == "failed":
                while seen.more:
                    seen = await self._look(node, start=False)
                raise await self._failure(node, seen)
            self._left[node] = "" if seen.job == self._job.id else seen.job
            if not seen.more:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        while seen.more:
            seen = await self._look(node, start=False)
        return seen

    async def _look(self, node: str, *, start: bool) -> SetupSeen:
        """Look at one, and keep what is new of its output."""
        copy = self._logs / setup_copy(self._job.nodes.index(node)) if self._logs else None
        have = await asyncio.to_thread(_size, copy) if copy else 0
        transport, setup = _transport(self._pool, self._job, node), self._setups[node]
        seen = await look_at_setup(transport, setup, have if have < LOG_LIMIT else 2**60, start=start)
        if copy and seen.output:
            await append_output(copy, self._clock.now(), have, seen.output)
        return seen

    async def _failure(self, node: str, seen: SetupSeen) -> SetupFailed:
        last = ""
        if self._logs:
            copy = self._logs / setup_copy(self._job.nodes.index(node))
            last = await asyncio.to_thread(_last_line, copy, Masker(self._setups[node].secrets.values()))
        command = self._setups[node].words
        words = f"the setup command `{command}` {seen.ended}" + (f": {last}" if last else "")
        return SetupFailed(node, words, f"read its output: ugro logs {self._job.id} --setup")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _last_line(path: Path, masker: Masker) -> str:
    """Return the last line that says something, masked before it is cut: part of a secret would not be known later."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, _size(path) - 8192))
        text = masker.text(file.read().decode("utf-8", "replace"))
    lines = [printable(line).strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")[:LAST_WORDS]
