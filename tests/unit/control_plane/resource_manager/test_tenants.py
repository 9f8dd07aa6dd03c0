"""Jobs that share a GPU: whose processes these are, what is left, and who takes more than declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugro.common.config import Inventory, NodeConfig
from ugro.common.models.gpu import Gpu, GpuProcess
from ugro.common.models.job import GpuPart, Job, NodeShare, Placement, Rank
from ugro.common.models.job_state import JobState
from ugro.control_plane.resource_manager.governor import Capacity, capacities, holders, leases
from ugro.control_plane.resource_manager.monitor import looks, samples
from ugro.control_plane.resource_manager.tenants import CUDA_MIB, excess_in_words, part_of_gpu, tenants, undeclared_mib
from ugro.testing import builders

UUID = "GPU-0"


def sharer(number: int, mib: int = 4000, **fields: Any) -> Job:
    share = NodeShare(
        node="gpu1", node_rank=0, first_rank=0, nproc=1, gpus=(UUID,), part=GpuPart(memory_mib=mib, fraction=0.3)
    )
    rank = Rank(rank=0, local_rank=0, node="gpu1", gpu=UUID, pid=100 + number)
    known = {"id": f"job-{number:03}", "uid": f"uid{number}", "placement": Placement(shares=(share,)), "ranks": (rank,)}
    return builders.job(**{"state": JobState.RUNNING} | known | fields)


def process(pid: int, mib: int | None, run: str | None = None, name: str = "python") -> GpuProcess:
    return GpuProcess(pid=pid, name=name, user="ann", memory_mib=mib, run=run)


def gpu(*processes: GpuProcess, used: int | None = None) -> Gpu:
    return Gpu(index=0, uuid=UUID, name="RTX", memory_total_mib=12000, memory_used_mib=used, processes=processes)


def capacity(shown: Gpu, *jobs: Job, reserve: int = 0) -> Capacity:
    node = NodeConfig(name="gpu1", address="h", reserve_memory=reserve)
    inventory = Inventory(nodes={"gpu1": node}, path=Path("inventory.yaml"))
    view = builders.node_view("gpu1", shown)
    return capacities(inventory, {"gpu1": view}, leases(jobs), {}, {}, "m", sharing=tenants(jobs))["gpu1"]


def left(shown: Gpu, *jobs: Job) -> int:
    slot = capacity(shown, *jobs).slots[0]
    return (slot.memory_mib or 0) - slot.undeclared_mib - sum(one.memory_mib for one in tenants(jobs)[UUID])


def test_knows_sharers_by_their_run_and_by_their_ranks() -> None:
    one, other = tenants([sharer(1), sharer(2)])[UUID]
    assert one.owns(process(7, 1, "uid1/1/0")) and not one.owns(process(7, 1, "uid2/1/0"))
    assert not one.owns(process(7, 1, "uid1/2/0")), "of another attempt"
    assert other.owns(process(102, 1)) and not other.owns(process(101, 1))
    assert tenants([sharer(1, state=JobState.SUCCEEDED)]) == {}


def test_several_jobs_hold_a_gpu_and_the_oldest_counts_where_one_is_named() -> None:
    jobs = [sharer(1), sharer(2)]
    assert leases(jobs) == {UUID: "job-001"} and holders(jobs) == {UUID: ("job-001", "job-002")}
    view = builders.node_view("gpu1", gpu())
    found = looks(view, holders(jobs))[0]
    assert (found.job, found.jobs) == ("job-001", ("job-001", "job-002"))
    assert looks(view, {UUID: ("job-001",)})[0].jobs is None


@pytest.mark.parametrize(
    ("processes", "used", "expected"),
    [
        ((process(101, 3000), process(9, 1000, "uid2/1/0")), 4000, 4000),
        ((process(101, 3000), process(9, 1000, "uid2/1/0")), 4300, 3700),  # what no process shows counts
        ((process(101, 3000), process(5, 2500)), 5500, 1500),  # another program
        ((process(101, 6000),), 6000, 2000),  # more than declared
        ((process(101, 3000), process(5, 2500)), None, 1500),
        ((process(101, None), process(102, None)), 7000, 4000),  # the driver does not say whose it is
        ((), 0, 4000),  # they only begin
    ],
)
def test_counts_what_is_used_beside_what_was_declared(
    processes: tuple[GpuProcess, ...], used: int | None, expected: int
) -> None:
    assert left(gpu(*processes, used=used), sharer(1), sharer(2)) == expected


def test_reserved_memory_and_the_display_are_counted_once() -> None:
    desktop = process(5, 300, name="/usr/lib/xorg/Xorg")
    shown = gpu(desktop, process(101, 3000), used=3300)
    slot = capacity(shown, sharer(1), reserve=700).slots[0]
    assert (slot.memory_mib, slot.undeclared_mib, slot.total_mib, slot.index) == (11000, 0, 12000, 0)


def test_a_gpu_with_sharers_is_not_busy_by_their_processes() -> None:
    assert capacity(gpu(process(9, 1000, "uid1/1/0"), used=1000), sharer(1)).busy == {}


@settings(max_examples=100, deadline=None)
@given(
    declared=st.lists(st.integers(100, 6000), min_size=1, max_size=4),
    use=st.lists(st.integers(0, 9000), min_size=4, max_size=4),
    foreign=st.integers(0, 4000),
)
def test_what_is_left_was_really_free(declared: list[int], use: list[int], foreign: int) -> None:
    jobs = [sharer(number, mib) for number, mib in enumerate(declared, 1)]
    processes = [process(100 + number, use[number - 1]) for number in range(1, len(jobs) + 1)]
    total = sum(one.memory_mib or 0 for one in processes) + foreign
    shown = gpu(*processes, process(5, foreign), used=total)
    most = sum(max(mib, use[at]) for at, mib in enumerate(declared)) + foreign
    assert left(shown, *jobs) == 12000 - most
    assert undeclared_mib(shown, tenants(jobs)[UUID], 0) == most - sum(declared)


def test_says_who_uses_more_than_declared_and_who_is_beside() -> None:
    jobs = [sharer(1), sharer(2)]
    view = builders.node_view("gpu1", gpu(process(101, 3000), process(8, 3000, "uid1/1/0"), process(102, 4000)))
    sharing = tenants(jobs)
    assert excess_in_words(jobs[0], {"gpu1": view}, sharing) == (
        "it uses 5.9 GiB of GPU 0 on gpu1, more than the 3.9 GiB it declared; it shares that GPU with job-002"
    )
    assert excess_in_words(jobs[1], {"gpu1": view}, sharing) == ""
    assert excess_in_words(jobs[0], {}, sharing) == ""
    alone = builders.job(JobState.RUNNING)
    assert excess_in_words(alone, {"gpu1": view}, sharing) == ""


def test_samples_of_a_sharer_are_its_own_memory() -> None:
    jobs = [sharer(1), sharer(2)]
    view = builders.node_view("gpu1", gpu(process(8, 3000, "uid1/1/0"), process(102, 4000), used=7000))
    assert [samples(job, {"gpu1": view}, 1.0)[0].memory_mib for job in jobs] == [3000, 4000]


def test_the_fraction_for_pytorch_leaves_room_for_cuda() -> None:
    assert part_of_gpu(4096, 12288) == GpuPart(memory_mib=4096, fraction=round((4096 - CUDA_MIB) / 12288, 4))
    assert part_of_gpu(600, 12000).fraction == 0.025, "half of what is little"


def test_a_placement_without_a_part_is_written_as_an_earlier_ugro_reads_it() -> None:
    share = NodeShare(node="a", node_rank=0, first_rank=0, nproc=1)
    assert "part" not in share.model_dump() and "part" not in share.model_dump_json()
    shared = sharer(1)
    assert Job.model_validate_json(shared.model_dump_json()) == shared
