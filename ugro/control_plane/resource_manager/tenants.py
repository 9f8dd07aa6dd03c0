"""Jobs that share a GPU by declared memory: who they are, what each uses of it, and what is left. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ugro.common.models.gpu import Gpu, GpuProcess
from ugro.common.models.job import GpuPart, Job
from ugro.common.models.node import NodeView
from ugro.common.text import size

MOST_SHARERS = 4
"""Most jobs that share a GPU: they take turns on its cores, so each one more makes all of them slower."""

CUDA_MIB = 512
"""MiB of a GPU that CUDA and its libraries take beside PyTorch's allocator, at most on usual cards."""


@dataclass(frozen=True)
class Tenant:
    """A job that shares a GPU. `memory_mib` is what it declared; `run` begins the tokens of its processes, and `pids`
    are its ranks there.
    """

    job: str
    memory_mib: int
    run: str
    pids: frozenset[int] = frozenset()

    def owns(self, process: GpuProcess) -> bool:
        """Return whether a process on the GPU is one of the job's."""
        return process.pid in self.pids or (process.run or "").startswith(f"{self.run}/")


Tenants = Mapping[str, Sequence[Tenant]]
"""The jobs that share a GPU, the oldest first, by its UUID."""

NO_TENANTS: Tenants = MappingProxyType({})


def tenants(jobs: Iterable[Job]) -> dict[str, tuple[Tenant, ...]]:
    """Return the jobs that share each GPU."""
    found: dict[str, tuple[Tenant, ...]] = {}
    for job in jobs:
        for share in job.placement.shares if job.state.on_nodes and job.placement else ():
            if share.part:
                pids = frozenset(rank.pid for rank in job.ranks if rank.node == share.node and rank.pid is not None)
                tenant = Tenant(job.id, share.part.memory_mib, f"{job.uid}/{job.attempt}", pids)
                for uuid in share.gpus:
                    found[uuid] = (*found.get(uuid, ()), tenant)
    return found


def used_by(tenant: Tenant, gpu: Gpu) -> int | None:
    """Return the memory in MiB that a job is seen to use of the GPU that it shares; None: the driver does not say."""
    own = [process for process in gpu.processes if tenant.owns(process)]
    known = [process.memory_mib for process in own if process.memory_mib is not None]
    return sum(known) if known else None


def undeclared_mib(gpu: Gpu, sharers: Sequence[Tenant], display_mib: int) -> int:
    """Return the memory in MiB that is used beside what sharers declared: by other programs, and by sharers that use
    more than they declared. `display_mib` is counted elsewhere.
    """
    within = sum(min(_use(one, gpu), one.memory_mib) for one in sharers)
    if gpu.memory_used_mib is not None:
        return max(0, gpu.memory_used_mib - display_mib - within)
    return max(0, sum(process.memory_mib or 0 for process in gpu.processes) - display_mib - within)


def _use(tenant: Tenant, gpu: Gpu) -> int:
    """Return the memory in MiB that a job uses of a GPU; the declared one where the driver does not report it."""
    used = used_by(tenant, gpu)
    return used if used is not None else tenant.memory_mib if any(map(tenant.owns, gpu.processes)) else 0


def excess(tenant: Tenant, gpu: Gpu) -> int | None:
    """Return the memory in MiB that a job uses where that is more than it declared."""
    used = used_by(tenant, gpu)
    return used if used is not None and used > tenant.memory_mib else None


def excess_in_words(job: Job, views: Mapping[str, object], sharing: Tenants) -> str:
    """Return in words that a job uses more of its GPU than it declared; empty where it does not."""
    for share in job.placement.shares if job.placement and job.placement.part else ():
        view = views.get(share.node)
        for gpu in view.gpus if isinstance(view, NodeView) else ():
            who = next((one for one in sharing.get(gpu.uuid, ()) if one.job == job.id), None)
            if gpu.uuid not in share.gpus or who is None or (used := excess(who, gpu)) is None:
                continue
            others = [one.job for one in sharing[gpu.uuid] if one.job != job.id]
            beside = f"; it shares that GPU with {', '.join(others)}" if others else ""
            declared = f"more than the {size(who.memory_mib)} it declared"
            return f"it uses {size(used)} of {gpu_title(gpu)} on {share.node}, {declared}{beside}"
    return ""


def gpu_title(gpu: Gpu) -> str:
    """Return a GPU's index, or its name where it has none."""
    return gpu.name if gpu.index is None else f"GPU {gpu.index}"


def part_of_gpu(memory_mib: int, total_mib: int | None) -> GpuPart:
    """Return what a job may use of a GPU, also as a fraction for PyTorch's allocator."""
    allocator = max(memory_mib - CUDA_MIB, memory_mib // 2)
    return GpuPart(memory_mib=memory_mib, fraction=round(allocator / (total_mib or memory_mib), 4))
