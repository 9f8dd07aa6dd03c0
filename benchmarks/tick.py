"""How long it takes to decide what starts: 64 nodes of 4 GPUs, and ever more jobs in the queue."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.report import CPU, Row, Times, clocked, in_turns, median_ms, ratio
from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import NodeError
from ugro.common.files import write_atomic
from ugro.common.job_spec import JobSpec
from ugro.common.models.gpu import Gpu, GpuProcess
from ugro.common.models.job_state import JobState
from ugro.common.models.node import NodeView
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.resource_manager.governor import Capacity, Slot
from ugro.control_plane.scheduler.backfill import Queue, RunningJob, WaitingJob
from ugro.control_plane.scheduler.queue import read_queue
from ugro.control_plane.scheduler.scheduling import schedule
from ugro.nodes.pool import Pool
from ugro.nodes.transport import Transport
from ugro.testing.builders import job, node_view
from ugro.testing.cluster import controller_over

T = TypeVar("T")

NODES, GPUS = 64, 4
SIZES = (250, 500, 1000, 2000)
ROUNDS = 9
JSON_LIMIT, GROWTH_LIMIT = 2.0, 3.5
"""At most so many times as long as the queue's JSON takes, and as half as many jobs take (2: linear, 4: quadratic)."""

BUSY, FREE = "read_queue + schedule, all GPUs busy", "read_queue + schedule, all GPUs free"
NEW, TICK = "the same in a new process", "Controller.tick()"
PEER = "its files read as JSON"
LIMITS = {BUSY: 2.0, FREE: 2.0, NEW: 5.0, TICK: 5.0}
"""At most so many times as long as PEER takes."""

OF_CPU = "of CPU"
NOW = 1.8e9


def measure() -> Iterator[Row]:
    """The scheduler alone, then over a store's files, then a whole tick."""
    yield from _pure()
    yield from _over_a_store()


def inventory() -> Inventory:
    """Return 64 nodes that are never contacted."""
    names = [f"n{number:02}" for number in range(NODES)]
    return Inventory(nodes={name: NodeConfig(name=name, address="127.0.0.1") for name in names})


def spec(dice: random.Random) -> JobSpec:
    """Return a typical job: mostly small ones, some gangs; half have a time limit, a third ask for memory."""
    wish: dict[str, object] = {
        "script": "train.py",
        "args": (f"--seed={dice.randrange(50)}",),
        "nodes": dice.choice((1, 1, 1, 2, 2, 4, 8, 16)),
        "gpus_per_node": dice.choice((1, 1, 2, 4, 4)),
        "priority": dice.choice((0, 0, 0, 0, 5, 10)),
    }
    if dice.random() < 0.5:
        wish["time_limit"] = float(dice.choice((600, 3600, 4 * 3600)))
    if dice.random() < 0.33:
        wish["vram"] = dice.choice((8000, 16000, 24000))
    return JobSpec.model_validate(wish)


def waiting_jobs(count: int, unlike: bool = False) -> tuple[WaitingJob, ...]:
    """So many jobs in the queue, always the same ones; unlike ones each want another amount of memory."""
    dice = random.Random(1)
    found = []
    for number in range(count):
        wish = spec(dice)
        if unlike:
            wish = wish.model_copy(update={"vram": 4000 + number})
        found.append(WaitingJob(f"job-{number:03}", wish, wish.priority, number, wish.time_limit))
    return tuple(found)


def _pure() -> Iterator[Row]:
    group = f"scheduler, {NODES} nodes × {GPUS} GPUs, plain data"
    nodes = inventory()
    for held in (1.0, 0.5):
        capacities, running = _cluster(held)
        queues: dict[object, tuple[WaitingJob, ...]] = {size: waiting_jobs(size) for size in SIZES}
        queues["unlike"] = waiting_jobs(1000, unlike=True)
        decisions = {
            f"{size}": partial(schedule, Queue(queue, running, capacities, nodes, NOW))
            for size, queue in queues.items()
        }
        plain = [waiting.spec.model_dump(mode="json") for waiting in queues[1000]]
        acts = {name: clocked(decide) for name, decide in decisions.items()}
        times = in_turns(acts | {"json": clocked(partial(_through_json, plain))}, ROUNDS)
        for name, decide in decisions.items():
            jobs = "1000 jobs, no two alike" if name == "unlike" else f"{name} jobs"
            what = f"{jobs}, {held:.0%} of the GPUs leased"
            yield Row(group, what, median_ms(times[name]), note=f"{len(decide().starts)} start")
        yield Row(group, "1000 specs to JSON and back", median_ms(times["json"]), note="the peer")
        for name, jobs in (("1000", "1000 jobs"), ("unlike", "1000 unlike jobs")):
            what = f"{jobs}, {held:.0%} leased / JSON"
            yield Row(group, what, ratio(times[name], times["json"], CPU), "×", JSON_LIMIT, note=OF_CPU)
        growth = ratio(times["2000"], times["1000"], CPU)
        yield Row(
            group, f"2000 / 1000 jobs, {held:.0%} leased", growth, "×", GROWTH_LIMIT, note="of CPU; about linear: 2 ×"
        )


def _through_json(plain: object) -> None:
    json.loads(json.dumps(plain))


def _cluster(held: float) -> tuple[dict[str, Capacity], tuple[RunningJob, ...]]:
    """The capacity of the nodes, and one job on each of the first of them."""
    capacities, running = {}, []
    for number in range(NODES):
        name = f"n{number:02}"
        slots = tuple(Slot(f"GPU-{number:04x}-{gpu}", "RTX", 24000) for gpu in range(GPUS))
        capacities[name] = Capacity(name, slots)
        if number < NODES * held:
            ends = NOW + 60 * number if number % 3 else None
            running.append(RunningJob(f"job-9{number:03}", frozenset(slot.key for slot in slots), ends))
    return capacities, tuple(running)


def view(name: str, number: int, busy: bool, at: float) -> NodeView:
    """Return the view of a node; a busy one computes for a user who does not use UGRO."""
    process = (GpuProcess(pid=1234, name="python", user="anna", memory_mib=20000),) if busy else ()
    gpus = tuple(
        Gpu(
            index=index,
            uuid=f"GPU-{number:08x}-0000-0000-0000-00000000000{index}",
            name="Benchmark GPU",
            memory_total_mib=24576,
            memory_used_mib=20000 if busy else 300,
            memory_free_mib=4576 if busy else 24276,
            utilization_percent=99 if busy else 0,
            temperature_c=50,
            processes=process,
        )
        for index in range(GPUS)
    )
    return node_view(name, *gpus, seen_at=at, cpu_count=32, load_1m=1.0, disk_free_mib=10**6)


class AnsweredPool(Pool):
    """A pool whose nodes have answered: all that remains of a tick is the master's own work."""

    async def each(
        self,
        names: Iterable[str],
        act: Callable[[Transport], Awaitable[T]],
        within: float | None = None,
        configs: Mapping[str, NodeConfig] | None = None,
    ) -> dict[str, T | NodeError]:
        return {
            name: (view(name, number, True, time.time()), {})  # type: ignore[misc]
            for number, name in enumerate(names)
        }


def fill_queue(store: MetadataStore, count: int) -> None:
    """So many queued jobs, written as the store writes them."""
    dice = random.Random(1)
    for number in range(1, count + 1):
        files, wish = store.jobs.files(f"job-{number:03}"), spec(dice)
        files.folder.mkdir(parents=True)
        name, command = files.folder.name, (wish.script, *wish.args)
        made = {"id": name, "uid": f"{number:032x}", "name": name, "submitted_at": NOW, "command": command}
        record = job(JobState.QUEUED, priority=wish.priority, **made)
        write_atomic(files.spec, wish.model_dump_json(indent=1))
        write_atomic(files.record, record.model_dump_json(indent=1))
    store.rebuild()


def _over_a_store() -> Iterator[Row]:
    group = f"tick, {NODES} nodes × {GPUS} GPUs, a store on disk"
    found: dict[int, dict[str, list[Times]]] = {}
    for size in SIZES:  # one store at a time: the records of all of them would be work for the garbage collector
        with tempfile.TemporaryDirectory(prefix="ugro-bench-") as folder:
            steps = list(_steps(Path(folder), size))
            found[size] = times = in_turns({what: clocked(act) for what, act, _ in steps}, ROUNDS)
        for what, _, note in steps:
            yield Row(group, f"{size} jobs: {what}", median_ms(times[what]), note=note)
    for what, limit in LIMITS.items():
        one, two = (_by_peer(found[size], what) for size in (1000, 2000))
        yield Row(group, f"1000 jobs: {what} / {PEER}", one, "×", limit, note=OF_CPU)
        yield Row(group, f"2000 / 1000 jobs: {what}", 2 * two / one, "×", GROWTH_LIMIT, note="the peer's is 2 ×")


def _by_peer(times: Mapping[str, list[Times]], what: str) -> float:
    return statistics.median(one[CPU] / peer[CPU] for one, peer in zip(times[what], times[PEER], strict=True))


def _steps(home: Path, size: int) -> Iterator[tuple[str, Callable[[], object], str]]:
    """What is measured over so many queued jobs, and what it stands for."""
    nodes = inventory()
    fill_queue(store := MetadataStore(home), size)

    views = {
        busy: {name: view(name, number, busy, NOW) for number, name in enumerate(nodes.nodes)} for busy in (True, False)
    }

    def decide(new: bool, busy: bool) -> None:
        here = MetadataStore(home) if new else store
        schedule(read_queue(here, nodes, here.jobs.live(), views[busy], NOW))

    def read() -> None:
        for folder in home.glob("jobs/*"):
            for path in folder.glob("*.json"):
                json.loads(path.read_bytes())

    known = "records are known (`ugro serve`)"
    yield BUSY, partial(decide, False, True), known
    yield FREE, partial(decide, False, False), known
    yield NEW, partial(decide, True, False), "every record and spec is read (`ugro sweep`)"
    controller = controller_over(store, nodes, AnsweredPool(nodes))
    tick = "resident, all GPUs busy; the nodes' own time is not in it"
    yield TICK, lambda: asyncio.run(controller.tick()), tick
    yield PEER, read, "the peer: json.loads of every record and spec"
