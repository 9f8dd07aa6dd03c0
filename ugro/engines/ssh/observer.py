"""Observes the nodes: all at the same time, and no longer than the caller has patience.

A node is asked once at a time. An answer that comes too late for one observation counts at the next one, as far as it
is still about the same records. So a slow link delays only decisions about its own jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ugro.common.clock import Clock
from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import AnswerPending, NodeError, NodeRefused, Unreachable
from ugro.common.models.event import Event
from ugro.common.models.job import Job
from ugro.common.models.node import NodeView
from ugro.common.models.run import RunFiles
from ugro.common.paths import RunPaths, run_config, run_paths
from ugro.common.troubles import trouble_of
from ugro.engines.base import Observation
from ugro.nodes.pool import Pool
from ugro.nodes.remote import observer

Place = tuple[str, str]
"""A node's name, and how it was described: a run may have been started when that was another address or account."""

Run = tuple[Job, RunPaths]


@dataclass(frozen=True)
class _Answer:
    """What a place said; of each run with the last change of the job's record, which it is about."""

    view: NodeView
    runs: Mapping[str, tuple[Event | None, RunFiles]]


@dataclass
class _Question:
    """What a place is to be asked."""

    config: NodeConfig
    runs: list[Run] = field(default_factory=list)


class Observer:
    """Asks over the connections of a pool."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._pending: dict[Place, asyncio.Task[_Answer | NodeError]] = {}

    @property
    def pending(self) -> Collection[asyncio.Task[_Answer | NodeError]]:
        """The questions that are not answered so far."""
        return self._pending.values()

    async def observe(
        self,
        inventory: Inventory,
        jobs: Sequence[Job],
        names: Iterable[str],
        within: float | None = None,
        keep: bool = False,
    ) -> Observation:
        """Ask the named nodes, each also where jobs on it were started when it was described otherwise.

        `within` bounds the wait in seconds. What is not answered by then is given up, or, to `keep`, asked on.
        """
        asked = _questions(inventory, jobs, names)
        if keep:
            for place in self._pending.keys() - asked.keys():  # such a node left, or changed
                self._pending.pop(place).cancel()
        tasks = {place: self._ask(place, question, keep) for place, question in asked.items()}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=within)
        said = {place: await self._answer(place, task, within, keep) for place, task in tasks.items()}
        views: dict[str, NodeView | NodeError] = {}
        for name, config in inventory.nodes.items():
            if answer := said.get(_place(config)):
                views[name] = answer if isinstance(answer, NodeError) else answer.view
        runs = {job.id: {node: _of_run(job, node, inventory, said) for node in job.nodes} for job in jobs}
        moved: dict[str, dict[str, NodeConfig]] = {}
        for job in jobs:
            for node, found in _moved(job, inventory, said).items():
                moved.setdefault(job.id, {})[node] = inventory.nodes[node]
                runs[job.id][node] = found
        return Observation(views, runs, self._clock.now(), moved)

    async def close(self) -> None:
        """Give up what is not answered."""
        tasks, self._pending = list(self._pending.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, place: Place, question: _Question, keep: bool) -> asyncio.Task[_Answer | NodeError]:
        under_way = self._pending.get(place) if keep else None
        return under_way or asyncio.create_task(self._hear(question))

    async def _hear(self, question: _Question) -> _Answer | NodeError:
        try:
            transport = self._pool.transport(question.config)
            view, files = await observer.observe(transport, [paths for _, paths in question.runs])
        except NodeError as error:
            return error
        except Exception as error:  # one node's unexpected answer must not hide the others
            node = question.config.name
            hint = trouble_of(f"{node}: its answer", error).hint
            return NodeRefused(node, f"its answer cannot be used ({type(error).__name__})", hint)
        runs = zip(question.runs, files, strict=True)
        return _Answer(view, {job.id: (job.last_event, run) for (job, _), run in runs})

    async def _answer(
        self, place: Place, task: asyncio.Task[_Answer | NodeError], within: float | None, keep: bool
    ) -> _Answer | NodeError:
        if keep:  # else the pending question is that of a tick
            self._pending.pop(place, None)
        if task.done():
            return task.result()
        if keep:
            self._pending[place] = task
            return AnswerPending(place[0], f"no answer within {within:g} s so far", "it is still being asked")
        task.cancel()
        await asyncio.wait([task])
        hint = "it may only be slow: `ugro check` waits longer"
        return AnswerPending(place[0], f"no answer within {within:g} s", hint)


def _questions(inventory: Inventory, jobs: Sequence[Job], names: Iterable[str]) -> dict[Place, _Question]:
    wanted = set(names)
    asked = {_place(config): _Question(config) for name, config in inventory.nodes.items() if name in wanted}
    for job in jobs:
        for node in wanted.intersection(job.nodes):
            config, paths = run_config(inventory, job, node), run_paths(inventory, job, node)
            if config and paths:
                asked.setdefault(_place(config), _Question(config)).runs.append((job, paths))
                if (now := inventory.nodes.get(node)) and now != config:  # it may have got another address
                    asked.setdefault(_place(now), _Question(now)).runs.append((job, paths))
    return asked


def _place(config: NodeConfig) -> Place:
    return config.name, config.model_dump_json()


def _moved(job: Job, inventory: Inventory, said: Mapping[Place, _Answer | NodeError]) -> dict[str, RunFiles]:
    """The runs on nodes that do not answer where they were started, found by the job's own mark where they are now."""
    found = {}
    for node, was in job.node_configs.items():
        now = inventory.nodes.get(node)
        if now is None or now == was:
            continue
        there, here = said.get(_place(was)), said.get(_place(now))
        if isinstance(there, Unreachable) and not isinstance(there, AnswerPending) and isinstance(here, _Answer):
            about, run = here.runs.get(job.id, (None, None))
            if run and run.uid == job.uid and about == job.last_event:
                found[node] = run
    return found


def _of_run(
    job: Job, node: str, inventory: Inventory, said: Mapping[Place, _Answer | NodeError]
) -> RunFiles | NodeError:
    config = run_config(inventory, job, node)
    answer = said.get(_place(config)) if config else None
    if answer is None:
        return NodeError(node, "is not in the inventory any more" if config is None else "was not asked")
    if isinstance(answer, NodeError):
        return answer
    about, run = answer.runs.get(job.id, (None, None))
    if run is None or about != job.last_event:
        return AnswerPending(node, "what it said is about an earlier state of the job", "it is asked again")
    return run
