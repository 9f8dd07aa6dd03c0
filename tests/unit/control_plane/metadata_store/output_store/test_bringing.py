"""Declared outputs come to the master after success: in any tick, from any node, once."""

from __future__ import annotations

import asyncio

import pytest

import ugro.control_plane.metadata_store.output_store.bringing as bringing
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.models.outputs import OutputsRecord
from ugro.common.models.outputs_state import OutputsState
from ugro.control_plane.metadata_store.locks import alone_on
from ugro.control_plane.metadata_store.output_store.bringing import bring_owed
from ugro.testing.cluster import Bed

WRITES = """\
import os
os.mkdir("out")
open("out/rank" + os.environ["RANK"], "w").write(os.environ["RANK"] * 1000)
open("out/same", "w").write("same")
"""


async def owed(bed: Bed) -> Job:
    """A job that has succeeded, and whose outputs are to come, as if it just had."""
    job = await bed.until(bed.submit(WRITES, outputs=["out/**"]), JobState.SUCCEEDED)
    for file in (bed.store.jobs.files(job.id).outputs / "out").iterdir():
        file.unlink()
    bed.store.outputs.owe(job.id)
    return job


async def bring(bed: Bed, job: Job) -> OutputsRecord:
    async with bed.pool as pool:
        await bring_owed(bed.store, bed.inventory, pool, job.id)
    record = bed.store.outputs.record(job.id)
    assert record
    return record


def told(bed: Bed, job: Job) -> list[str]:
    return [event.message for event in bed.store.timeline.of_job(job.id) if event.kind == EventKind.OUTPUTS]


async def test_a_tick_after_success_brings_the_outputs_of_all_nodes(bed: Bed) -> None:
    job = await bed.until(bed.submit(WRITES, outputs=["out/**"]), JobState.SUCCEEDED)
    folder = bed.store.jobs.files(job.id).outputs
    assert sorted(file.name for file in (folder / "out").iterdir()) == ["rank0", "rank1", "same"]
    record = bed.store.outputs.record(job.id)
    assert record and (record.state, record.files, record.bytes) == (OutputsState.HERE, 3, 2004)
    assert bed.store.outputs.owed() == [] and told(bed, job) == [f"3 outputs (2 KiB) copied to {folder}"]


async def test_waits_for_an_unreachable_node_and_reports_that_once(bed: Bed) -> None:
    job = await owed(bed)
    bed.nodes["b"].silent = True
    for _ in range(2):
        record = await bring(bed, job)
        assert (record.state, record.files, record.problem) == (OutputsState.OWED, 2, "b: does not answer")
    assert told(bed, job)[1:] == ["its outputs are still to come: b: does not answer"]
    bed.nodes["b"].silent = False
    record = await bring(bed, job)
    assert (record.state, record.files, record.problem) == (OutputsState.HERE, 3, "")
    assert bed.store.outputs.owed() == [] and len(told(bed, job)) == 3


async def test_gives_up_a_node_that_was_unreachable_for_a_week(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await owed(bed)
    bed.nodes["b"].silent = True
    monkeypatch.setattr(bringing, "OWED_FOR", -1.0)
    assert (await bring(bed, job)).state == OutputsState.PARTIAL and bed.store.outputs.owed() == []


async def test_leaves_on_the_nodes_what_is_too_much(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await owed(bed)
    monkeypatch.setattr(bringing, "OUTPUTS_LIMIT", 1999)
    record = await bring(bed, job)
    assert (record.state, record.bytes) == (OutputsState.TOO_LARGE, 2008) and bed.store.outputs.owed() == []
    assert told(bed, job)[-1].startswith("its outputs (4 files, 2 KiB) stay on its nodes: only up to")
    assert not any((bed.store.jobs.files(job.id).outputs / "out").iterdir())


async def test_ends_a_slice_and_continues(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await owed(bed)
    monkeypatch.setattr(bringing, "SLICE_SECONDS", 0.01)
    record = await bring(bed, job)
    assert (record.state, record.problem) == (OutputsState.OWED, "they are being copied")
    monkeypatch.undo()
    assert (await bring(bed, job)).state == OutputsState.HERE


async def test_reports_names_that_fit_nothing(bed: Bed) -> None:
    job = await bed.until(bed.submit("pass\n", outputs=["out"]), JobState.SUCCEEDED)
    record = bed.store.outputs.record(job.id)
    assert record and record.state == OutputsState.NONE
    assert told(bed, job) == ["no file has a name that it declares: out"]


async def test_reports_a_name_that_cannot_be_copied(bed: Bed) -> None:
    job = await bed.until(
        bed.submit(f"import os\n{WRITES}open(b'out/\\xff', 'w')\n", outputs=["out/**"]), JobState.SUCCEEDED
    )
    record = bed.store.outputs.record(job.id)
    assert record and record.state == OutputsState.OWED and record.files == 3
    assert record.problem.endswith(": 1 name: no UTF-8; rename it there")


async def test_lets_go_of_a_job_that_was_removed_or_never_succeeded(bed: Bed) -> None:
    bed.store.outputs.owe((held := bed.submit(WRITES, outputs=["out"], hold=True)).id)
    assert (await bring(bed, held)).state == OutputsState.OWED  # its success may be recorded next
    bed.store.jobs.files(held.id).record.rename(bed.home / "gone")
    async with bed.pool as pool:
        await bring_owed(bed.store, bed.inventory, pool, held.id)
    assert bed.store.outputs.owed() == []


async def test_leaves_them_to_another_process_that_is_at_it(bed: Bed) -> None:
    job = await owed(bed)
    with alone_on(bed.store.jobs.files(job.id).outputs):
        assert (await bring(bed, job)).state == OutputsState.OWED
    bed.nodes["a"].silent = bed.nodes["b"].silent = True
    await asyncio.wait_for(bed.tick(), 30)  # a tick does not fail because of them
    assert bed.store.outputs.owed() == [job.id]
