"""The watchdog at work: from a tick's observation to its memory (`watchdog.json`) and its reports."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ugro.common.errors import InputError, RecordNewer, RecordUnreadable
from ugro.common.files import write_atomic
from ugro.common.job_spec import JobSpec
from ugro.common.models.gpu import Gpu
from ugro.common.models.job import Job
from ugro.common.models.node import NodeView
from ugro.common.models.run import RankFiles, RunFiles
from ugro.common.text import count, duration
from ugro.control_plane import transitions
from ugro.control_plane.failure_handler.watchdog.judge import ProgressVerdict, State, judge, needs_steps
from ugro.control_plane.failure_handler.watchdog.sights import IDLE_SECONDS, HangLimits, Sight, WatchMemory, look
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.log_ends import rank_log
from ugro.control_plane.metadata_store.records import read_record, state_errors
from ugro.control_plane.resource_manager.tenants import tenants
from ugro.control_plane.training_metrics.steps import Progress, last_progress
from ugro.control_plane.transitions import Stage
from ugro.engines.base import Observation

if TYPE_CHECKING:
    from ugro.control_plane.failure_handler.stacks import Said

SyncEnds = Callable[[Job], Awaitable[object]]
Stand = Callable[[Job], Awaitable["Said"]]


@dataclass(frozen=True)
class Hang:
    """Watched seconds of a hang since it was reported, and the rank that does not take part."""

    seconds: float
    rank: int | None


def is_due(store: MetadataStore, job_id: str, seen: Observation) -> bool:
    """Return whether the next sample of a running job is due."""
    path = store.jobs.files(job_id).watchdog
    with state_errors(path):
        before = _read(path)
    return before is None or not 0 <= seen.at - before.looked_at < limits_of(store.jobs.spec(job_id)).look_seconds


async def watch(store: MetadataStore, job_id: str, seen: Observation, sync_ends: SyncEnds, stand: Stand) -> None:
    """Take a due sample of a running job (`is_due`) into account, and report a hang, its end, and idle GPUs.

    Logs are read only where they decide: in a long silence, until a first step is seen, and before a hang is reported.
    Then the stack trace of each rank is kept too.
    """
    path, limits = store.jobs.files(job_id).watchdog, limits_of(store.jobs.spec(job_id))
    with state_errors(path):
        before = _read(path)
    job = store.jobs.job(job_id)
    memory = look(before, job.attempt, sights(job, seen), seen.at, limits)
    if before is None and job.alert:  # the memory is lost, and a hang is over only with a sign of life
        memory = memory.model_copy(update={"hung_at": memory.watched})
    steps: Mapping[int, Progress | None] = {}
    if needs_steps(memory, limits):
        await sync_ends(job)
        steps = await asyncio.to_thread(_steps, store, job)
        memory = memory.model_copy(update={"stepped": any(steps.values())})
    verdict = judge(memory, limits, steps)
    if verdict.state == State.HUNG and job.alert is None:
        verdict = await _confirmed(store, job, verdict, stand)
    idle = memory.idle >= IDLE_SECONDS and not memory.idle_told
    changed: dict[str, object] = {"hung_at": None, "culprit": None, "idle_told": memory.idle_told or idle}
    if verdict.state == State.HUNG:
        since = memory.watched if memory.hung_at is None else memory.hung_at
        changed |= {"hung_at": since, "culprit": memory.culprit if verdict.rank is None else verdict.rank}

    def record() -> None:
        with state_errors(
            path
        ):  # before it is reported: what a crash keeps from the record is reported at the next observation
            write_atomic(path, memory.model_copy(update=changed).model_dump_json())
        now = store.jobs.job(job_id)  # logs and stacks may have taken their time
        if now.attempt == job.attempt and transitions.stage(now) == Stage.RUNNING:
            _tell(store, now, memory if idle else None, verdict)

    await store.write(record)


def _tell(store: MetadataStore, job: Job, idle: WatchMemory | None, verdict: ProgressVerdict) -> None:
    """Record what is new about a job that still runs."""
    if idle:
        gpus = count(sum(len(job.gpus_of(rank)) for rank in job.ranks), "GPU")
        job = store.jobs.save(*transitions.idle(job, f"its {gpus} did nothing for {duration(idle.idle)}"))
    if verdict.state == State.HUNG and job.alert is None:
        store.decisions.remember_undecided(job.id)
        store.jobs.save(*transitions.hang(job, verdict.reason))
    elif verdict.state != State.HUNG and job.alert is not None:
        store.jobs.save(*transitions.calm(job))


async def _confirmed(store: MetadataStore, job: Job, verdict: ProgressVerdict, stand: Stand) -> ProgressVerdict:
    """Keep the ranks' stack traces, which are lost once they are ended, and add what NCCL reports on them."""
    # Here, since every command that observes nodes has the watchdog, and few of them find a hang.
    from ugro.control_plane.failure_handler.stacks import keep, report_of_nccl
    from ugro.control_plane.failure_handler.watchdog.nccl_report import difference
    from ugro.nodes.remote.stacks.stacks import NodeStacks

    said = await stand(job)
    with store.optional(), state_errors(path := store.jobs.files(job.id).hang(job.attempt)):
        keep(path, said, store.clock.now())
    report = report_of_nccl([one for one in said.values() if isinstance(one, NodeStacks)])
    found = difference(report, job.ranks)
    if found is None:
        return verdict
    rank = verdict.rank if found.rank is None else found.rank
    return replace(verdict, rank=rank, reason=f"{verdict.reason}; {found.text}")


def hang_of(store: MetadataStore, job: Job) -> Hang:
    """Return the watchdog's memory of the hang that a job's alert reports."""
    memory = _read(store.jobs.files(job.id).watchdog)
    if memory is None or memory.attempt != job.attempt or memory.hung_at is None:
        return Hang(0.0, None)
    return Hang(memory.watched - memory.hung_at, memory.culprit)


def limits_of(spec: JobSpec) -> HangLimits:
    """The floor and the ceiling that a job asks for, or the usual ones."""
    asked = spec.hang_after
    return HangLimits(asked.min, asked.max) if asked else HangLimits()


def sights(job: Job, seen: Observation) -> list[Sight]:
    """Return the nodes' samples of the living ranks of a job."""
    found, sharing = [], tenants([job])
    for rank in job.ranks:
        run, view = seen.runs[job.id].get(rank.node), seen.views.get(rank.node)
        files = next((one for one in run.ranks if one.rank == rank.rank), None) if isinstance(run, RunFiles) else None
        if files is None or not files.alive:
            continue
        gpus = [gpu for gpu in view.gpus if gpu.uuid in job.gpus_of(rank)] if isinstance(view, NodeView) else []
        gpu = max(gpus, key=lambda gpu: gpu.utilization_percent or 0, default=None)  # it hangs where none is busy
        if gpu and (mine := sharing.get(gpu.uuid)) and not all(map(mine[0].owns, gpu.processes)):
            gpu = None  # it is unknown which of the jobs that share it keeps it busy
        found.append(_sight(rank.node, files, rank.gpu is not None, gpu))
    return found


def _sight(node: str, files: RankFiles, has_gpu: bool, gpu: Gpu | None) -> Sight:
    effort = files.effort
    return Sight(
        rank=files.rank,
        node=node,
        log_bytes=files.log_bytes,
        traffic_bytes=effort.read_bytes + effort.written_bytes if effort else None,
        cpu_seconds=effort.cpu_seconds if effort else None,
        state=effort.state if effort else None,
        has_gpu=has_gpu,
        utilization_percent=gpu.utilization_percent if gpu else None,
        power_w=gpu.power_w if gpu else None,
    )


def _read(path: Path) -> WatchMemory | None:
    """Return the memory. A file that cannot be understood is no loss: watching begins again.

    Raises:
        RecordNewer: a newer UGRO watches here, whose memory is not to be written over.
    """
    try:
        return read_record(WatchMemory, path)
    except RecordNewer:
        raise
    except (InputError, RecordUnreadable):
        return None


def _steps(store: MetadataStore, job: Job) -> dict[int, Progress | None]:
    folder = store.jobs.files(job.id).logs(job.attempt)
    return {rank.rank: last_progress(rank_log(folder, rank.rank)) for rank in job.ranks}
