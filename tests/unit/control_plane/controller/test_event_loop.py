"""Nothing stops the event loop: neither another writer, nor the disk, nor a tick over many jobs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from ugro.common.errors import InputError, StateLocked
from ugro.common.job_spec import JobSpec
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job, NodeShare, Placement, Rank
from ugro.common.models.job_state import JobState, RankState
from ugro.control_plane.metadata_store import MetadataStore
from ugro.testing.cluster import Bed, controller_over

HOLDER = """
import sys
from pathlib import Path
from ugro.control_plane.metadata_store import MetadataStore
with MetadataStore(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(home: Path) -> Iterator[Callable[[], None]]:
    """Another process writes, until it is let go."""
    command = [sys.executable, "-c", HOLDER, str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == b"held\n"

        def let_go() -> None:
            assert process.stdin
            process.stdin.close()
            process.wait()

        try:
            yield let_go
        finally:
            let_go()


async def beats(count: int) -> None:
    """The event loop turns."""
    for _ in range(count):
        await asyncio.sleep(0.001)


async def test_writers_wait_for_another_process_while_the_loop_turns(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    order: list[int] = []
    with held_by_another(tmp_path) as let_go:
        writers = [asyncio.create_task(store.write(lambda number=number: order.append(number))) for number in range(3)]  # type: ignore[misc]
        await beats(50)
        assert order == [] and not any(writer.done() for writer in writers)
        let_go()
        await asyncio.gather(*writers)
    assert sorted(order) == [0, 1, 2]


async def test_a_writer_gives_up_after_its_patience_and_names_who_writes(tmp_path: Path) -> None:
    store, changed = MetadataStore(tmp_path), threading.Event()
    with held_by_another(tmp_path), pytest.raises(StateLocked, match=r"pid \d+"):
        await store.write(changed.set, patience=0.1)
    assert not changed.is_set()


async def test_one_writer_at_a_time_whether_coroutine_or_not(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    inside: list[str] = []

    def change(who: str) -> None:
        with store.lock():  # who writes may call what takes the lock by itself
            assert not inside
            inside.append(who)
            time.sleep(0.001)
            inside.remove(who)

    async def turns(who: str) -> None:
        for _ in range(20):
            await store.write(lambda: change(who))

    writers = [asyncio.create_task(turns(f"coroutine {number}")) for number in range(4)]
    while not all(writer.done() for writer in writers):
        change("the event loop")
        await asyncio.sleep(0)
    await asyncio.gather(*writers)


async def test_a_change_that_has_begun_is_finished_before_its_caller_is_cancelled(tmp_path: Path) -> None:
    store, began, end = MetadataStore(tmp_path), threading.Event(), threading.Event()
    done: list[bool] = []

    def change() -> None:
        began.set()
        done.append(end.wait(20))

    writer = asyncio.create_task(store.write(change))
    await asyncio.to_thread(began.wait, 20)
    writer.cancel()
    await beats(5)
    assert not writer.done()
    end.set()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert done == [True]


async def test_a_writer_that_waits_is_cancelled_at_once(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    with held_by_another(tmp_path):
        writer = asyncio.create_task(store.write(lambda: None))
        await beats(5)
        writer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writer


async def test_what_a_change_raises_is_raised(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)

    def change() -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        await store.write(change)
    with store.lock(patience=0):
        pass


# A tick over many jobs

JOBS, RANKS = 200, 64


def big_record(bed: Bed, number: int) -> Job:
    """A job of 64 ranks that runs on a node which is silent."""
    share = NodeShare(node="a", node_rank=0, first_rank=0, nproc=RANKS, config=bed.inventory.nodes["a"])
    files = bed.store.jobs.files(f"job-{number:03}")
    files.folder.mkdir(parents=True)
    ranks = tuple(
        Rank(rank=index, local_rank=index, node="a", gpu=f"GPU-{index}", state=RankState.RUNNING)
        for index in range(RANKS)
    )
    job = Job(
        id=files.folder.name, uid=f"{number:032x}", name=files.folder.name, state=JobState.RUNNING,
        submitted_at=1.0, started_at=2.0, command=("t.py",), ranks=ranks,
        placement=Placement(shares=(share,), master_addr="127.0.0.1", master_port=29500),
        code=CodeVersion(directory="/p", files=1, size_bytes=1),
    )  # fmt: skip
    files.spec.write_text(JobSpec(script="t.py", workdir="/p").model_dump_json())
    files.record.write_text(job.model_dump_json())
    return job


NOISE = """
import sys, threading, time
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
late = 0.0
while not over.is_set():
    due = time.monotonic() + 0.005
    time.sleep(0.005)
    late = max(late, time.monotonic() - due)
print(late)
"""


@contextmanager
def machine_noise() -> Iterator[Callable[[], float]]:
    """How many seconds another process was late at the most, that has nothing to do but to sleep."""
    with subprocess.Popen([sys.executable, "-c", NOISE], stdin=-1, stdout=-1, text=True) as process:
        yield lambda: float(process.communicate()[0])


@asynccontextmanager
async def heartbeat() -> AsyncIterator[list[float]]:
    """A coroutine that wants to run every 5 ms, and by how many seconds it was late each time."""
    late: list[float] = []

    async def beat() -> None:
        while True:
            due = time.monotonic() + 0.005
            await asyncio.sleep(0.005)
            late.append(time.monotonic() - due)

    task = asyncio.create_task(beat())
    await asyncio.sleep(0)
    try:
        yield late
    finally:
        await asyncio.sleep(0.01)
        task.cancel()


async def test_a_tick_over_many_big_records_keeps_nobody_waiting(bed: Bed) -> None:
    jobs = [big_record(bed, number) for number in range(1, JOBS + 1)]
    bed.store.rebuild()
    bed.nodes["a"].silent = True
    as_one = MetadataStore(bed.store.home)
    began = time.monotonic()
    as_one.jobs.settle()  # what a tick would do in its event loop by itself, and some of it: the baseline
    for job in as_one.jobs.live():
        as_one.jobs.save(job, EventKind.RANKS, "")
    baseline = time.monotonic() - began
    controller = controller_over(MetadataStore(bed.store.home), bed.inventory, bed.pool)
    with machine_noise() as noise:
        async with heartbeat() as late:
            await controller.tick()
        late_elsewhere = noise()
    await controller.close()
    assert {bed.store.jobs.job(job.id).state for job in jobs} == {JobState.UNKNOWN}
    # All of it in the event loop would be one beat that is late by the baseline; how late others are is the machine.
    assert max(late) < baseline * 2 / 3 + 4 * late_elsewhere, (max(late), baseline, late_elsewhere)
