"""Changes at a node since the last observation, how long it is unreachable, and a job's use of its GPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from ugro.common.errors import NodeError
from ugro.common.models.event_kind import EventKind
from ugro.common.models.gpu import Gpu
from ugro.common.models.job import Job, Rank
from ugro.common.models.metrics import GpuLook, GpuSample
from ugro.common.models.node import NodeView, Silence
from ugro.control_plane.resource_manager.governor import foreign_processes, has_display_at_most, program
from ugro.control_plane.resource_manager.tenants import tenants, used_by
from ugro.nodes.remote.owner.owner import is_same_master

N = TypeVar("N", int, float)

WATCH_GAP = 60.0
LONGEST_WATCH_GAP = 4000.0
"""Seconds between two looks that count as watching: so many, or as many as between the two before (cron may sweep once
an hour), with `GAP_LEEWAY`. A master that slept or was not run did not watch.
"""

GAP_LEEWAY = 1.5
"""Times the usual gap that one may last: a sweep takes its time, and cron starts it late."""

PROGRAM_LENGTH = 60
"""Characters of a foreign program's name that are kept: a node may call its programs what it likes."""

SILENCE_GRACE = 600.0
"""Watched seconds of silence after which UGRO proposes to give a node up; the person decides."""

Views = Mapping[str, NodeView | NodeError]


def news(before: NodeView | None, now: NodeView, master: str) -> Iterator[tuple[EventKind, str]]:
    """Yield the changes of a node that answers: event kind and message. `master` is our own id."""
    owner = now.owner or ""
    if owner and not is_same_master(owner, master) and not (before and is_same_master(owner, before.owner or "")):
        told = f"another master runs it: {owner.partition(' ')[2] or owner}; it gets no job of this one"
        yield EventKind.OTHER_MASTER, f"{told} (to make this one its master: ugro launch --takeover)"
    if before is None:
        yield EventKind.JOINED, _gpus_in_words(now)
        return
    if before.boot_id != now.boot_id:
        yield EventKind.REBOOTED, "it has a new boot id"
    was, now_ = _by_uuid(before), _by_uuid(now)
    yield from (
        (EventKind.GPU_GONE, f"{gpu.name} ({uuid}) has disappeared") for uuid, gpu in was.items() if uuid not in now_
    )
    yield from ((EventKind.GPU_NEW, f"{gpu.name} ({uuid}) is there") for uuid, gpu in now_.items() if uuid not in was)
    for uuid, gpu in now_.items():
        old = was.get(uuid)
        if old and gpu.problem and gpu.problem != old.problem:
            yield EventKind.GPU_PROBLEM, f"{gpu.name} ({uuid}): {gpu.problem}"
        if old and old.problem and not gpu.problem:
            yield EventKind.GPU_WELL, f"{gpu.name} ({uuid}) works again"
    drivers = {gpu.driver for gpu in before.gpus if gpu.driver}, {gpu.driver for gpu in now.gpus if gpu.driver}
    if all(drivers) and drivers[0] != drivers[1]:
        yield EventKind.DRIVER, f"driver {', '.join(sorted(drivers[0]))} became {', '.join(sorted(drivers[1]))}"
    if now.gpu_problem and now.gpu_problem != before.gpu_problem:
        yield EventKind.GPU_PROBLEM, now.gpu_problem


def _by_uuid(view: NodeView) -> dict[str, Gpu]:
    return {gpu.uuid: gpu for gpu in view.gpus if gpu.uuid}


def _gpus_in_words(view: NodeView) -> str:
    return ", ".join(gpu.name for gpu in view.gpus) or "no GPU"


def silences(before: Mapping[str, Silence], views: Views, now: float) -> dict[str, Silence]:
    """Return the unreachable nodes. Time without observations adds nothing to `watched`."""
    found = {}
    for name, view in views.items():
        if isinstance(view, NodeView):
            continue
        old = before.get(name) or Silence(since=now, seen_at=now)
        gap = now - old.seen_at
        found[name] = Silence(
            since=old.since,
            seen_at=now,
            watched=old.watched + (gap if _is_watched(gap, old.gap) else 0.0),
            gap=max(0.0, gap),
            code=view.code,
            problem=view.problem,
            hint=view.hint,
        )
    return found


def _is_watched(gap: float, before: float) -> bool:
    usual = min(max(before, WATCH_GAP), LONGEST_WATCH_GAP)
    return 0 <= gap <= usual * GAP_LEEWAY


def samples(job: Job, views: Views, now: float) -> list[GpuSample]:
    """Return what the GPUs of each rank show now. Memory is the job's own, as far as the driver reports it.

    Of a rank with several GPUs it is the highest of each value: what one of them reaches limits the rank.
    """
    found, sharing = [], tenants([job])
    for rank in job.ranks:
        view = views.get(rank.node)
        if not isinstance(view, NodeView):
            continue
        if gpus := [gpu for gpu in view.gpus if gpu.uuid in job.gpus_of(rank)]:
            memory = (
                used_by(sharing[gpu.uuid][0], gpu) if gpu.uuid in sharing else _own_memory(gpu, rank) for gpu in gpus
            )
            found.append(
                GpuSample(
                    at=now,
                    rank=rank.rank,
                    memory_mib=_highest(memory),
                    utilization_percent=_highest(gpu.utilization_percent for gpu in gpus),
                    temperature_c=_highest(gpu.temperature_c for gpu in gpus),
                    power_w=_highest(gpu.power_w for gpu in gpus),
                )
            )
    return found


def _highest(values: Iterable[N | None]) -> N | None:
    return max((value for value in values if value is not None), default=None)


def _own_memory(gpu: Gpu, rank: Rank) -> int | None:
    """Return the memory in MiB of a rank on its own GPU, without what others had there before, such as a display.

    It is all used memory where the driver names processes without theirs, or too much is used for a display alone.
    """
    others = foreign_processes(gpu)  # the rank's own process may be a wrapper of those that compute
    own = [process for process in gpu.processes if process.pid == rank.pid] or others
    if not own:
        return None if has_display_at_most(gpu) else gpu.memory_used_mib
    return sum(process.memory_mib or 0 for process in own) or gpu.memory_used_mib


def looks(view: NodeView, held: Mapping[str, Sequence[str]]) -> list[GpuLook]:
    """Return a sample of each GPU of a node, with its job. `held` has the jobs of each GPU (`governor.holders`)."""
    found = []
    for uuid, gpu in _by_uuid(view).items():
        jobs, foreign = tuple(held.get(uuid, ())), foreign_processes(gpu)
        found.append(
            GpuLook(
                at=view.seen_at,
                uuid=uuid,
                utilization_percent=gpu.utilization_percent,
                memory_used_mib=gpu.memory_used_mib,
                memory_total_mib=gpu.memory_total_mib,
                temperature_c=gpu.temperature_c,
                power_w=gpu.power_w,
                sm_clock_mhz=gpu.sm_clock_mhz,
                memory_clock_mhz=gpu.memory_clock_mhz,
                throttled=gpu.throttled,
                job=next(iter(jobs), None),
                jobs=jobs if len(jobs) > 1 else None,
                program=program(foreign[0])[:PROGRAM_LENGTH] if foreign and not jobs else None,
            )
        )
    return found


def peak(seen: Iterable[GpuSample]) -> int | None:
    """The most memory any rank was seen to use, in MiB."""
    return max((sample.memory_mib for sample in seen if sample.memory_mib is not None), default=None)
