"""Jobs that share a GPU by declared memory: packing, fairness to jobs that want a GPU alone, and what is said."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import InputError, JobSpecError
from ugro.common.job_spec import JobSpec, job_spec
from ugro.common.models.job import Placement
from ugro.control_plane.resource_manager.governor import Capacity, Slot, placement_keys
from ugro.control_plane.resource_manager.tenants import MOST_SHARERS
from ugro.control_plane.scheduler.allocator import choose
from ugro.control_plane.scheduler.backfill import Queue, Round, RunningJob, WaitingJob
from ugro.control_plane.scheduler.forecast import forecast
from ugro.control_plane.scheduler.pending_words import reason_in_words
from ugro.control_plane.scheduler.room import Room
from ugro.control_plane.scheduler.scheduling import check_request, reasons, schedule, why

NOON = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))


def spec(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"script": "t.py", **fields})


def node(name: str, *memory: int | None) -> Capacity:
    slots = [Slot(f"{name}-{at}", "RTX", mib, mib and mib + 512, at) for at, mib in enumerate(memory)]
    return Capacity(name, tuple(slots) or (Slot(f"cpu:{name}", "CPU"),))


def room(*nodes: Capacity, **sharers: int) -> Room:
    """A room where jobs share slots: `a_0__job_001=4000`."""
    found = Room({offer.node: offer for offer in nodes})
    for name, mib in sharers.items():
        key, _, job = name.partition("__")
        found.take([key.replace("_", "-")], job.replace("_", "-"), mib)
    return found


def place(asked: JobSpec, within: Room, *names: str) -> Placement | None:
    return choose(asked, names, within)


def queue(nodes: list[Capacity], jobs: list[WaitingJob], *running: RunningJob) -> Queue:
    configs = {offer.node: NodeConfig(name=offer.node, address="h") for offer in nodes}
    inventory = Inventory(nodes=configs, path=Path("inventory.yaml"))
    return Queue(tuple(jobs), running, {offer.node: offer for offer in nodes}, inventory, NOON)


def waiting(number: int, **fields: object) -> WaitingJob:
    asked = spec(**fields)
    return WaitingJob(f"job-{number:03}", asked, asked.priority, number, asked.time_limit)


def sharer(number: int, key: str, mib: int, ends: float | None = None) -> RunningJob:
    return RunningJob(f"job-{number:03}", frozenset({key}), ends, shared_mib=mib)


def starts(case: Queue) -> dict[str, str]:
    return {one.id: ",".join(sorted(placement_keys(one.placement))) for one in schedule(case).starts}


def told(case: Queue, job_id: str) -> str:
    return "; ".join(reason_in_words(reason, NOON) for reason in why(case, job_id))


def test_packs_a_gpu_that_is_shared_already_and_says_beside_whom() -> None:
    found = room(node("a", 12000), node("b", 12000), b_0__job_012=4096)
    placement = place(spec(share=True, vram="4G"), found, "a", "b")
    assert placement and placement_keys(placement) == {"b-0"}
    assert placement.why == "shares GPU 0 of b with job-012: 8.0 of 11.7 GiB declared, 3.7 free"
    part = placement.part
    assert part and part.memory_mib == 4096 and part.fraction == round((4096 - 512) / 12512, 4)
    alone = place(spec(share=0.25), room(node("a", 12000), node("b", 8000)), "a", "b")
    assert (alone and placement_keys(alone) == {"a-0"}) or placement_keys(alone) == {"b-0"}
    assert alone.why == "shares GPU 0 of b as the first: 2.0 of 7.8 GiB declared, 5.9 free", "the smallest that does"


def test_two_halves_share_a_gpu_and_a_third_does_not_fit() -> None:
    half = spec(share=0.5)
    assert place(half, room(node("a", 12001), a_0__job_001=6000), "a")
    assert place(half, room(node("a", 12001), a_0__job_001=6000, a_0__job_002=6000), "a") is None


def test_takes_a_limited_number_of_sharers_and_only_gpus_whose_size_is_known() -> None:
    small = spec(share=True, vram=1000)
    full = {f"a_0__job_{number:03}": 100 for number in range(MOST_SHARERS)}
    assert place(small, room(node("a", 12000), **full), "a") is None
    assert place(small, room(node("a", None)), "a") is None
    assert place(small, room(node("a")), "a") is None, "a CPU is not shared"


def test_never_joins_a_job_that_has_the_gpu_alone_nor_a_gpu_in_use() -> None:
    taken = room(node("a", 12000))
    taken.take(["a-0"])
    assert place(spec(share=0.1), taken, "a") is None
    busy = replace(node("a", 12000), busy={"a-0": "GPU 0 (RTX): used by python"})
    assert place(spec(share=0.1), room(busy), "a") is None
    assert place(spec(gpus_per_node=1), room(node("a", 12000), a_0__job_001=100), "a") is None
    assert place(spec(gpus=1), room(node("a", 12000, 12000), a_0__job_001=100), "a")


def test_counts_memory_that_nobody_declared() -> None:
    slot = replace(node("a", 12000).slots[0], undeclared_mib=5000)
    used = Capacity("a", (slot,))
    asked = spec(share=True, vram=6000)
    assert place(asked, room(used, a_0__job_001=2000), "a") is None
    assert place(asked, room(used, a_0__job_001=1000), "a")
    assert place(spec(share=0.5), room(used, a_0__job_001=6000), "a") is None


def test_sharers_do_not_starve_a_job_that_waits_for_the_whole_gpu() -> None:
    nodes = [node("a", 12000)]
    running = sharer(1, "a-0", 4000, ends=NOON + 3600)
    case = queue(
        nodes, [waiting(2, gpus_per_node=1), waiting(3, share=0.25), waiting(4, share=0.25, time_limit=600)], running
    )
    found = schedule(case)
    assert found.head == "job-002" and found.head_starts_at == NOON + 3600
    assert starts(case) == {"job-004": "a-0"}, "it is over before the head can start"
    assert told(case, "job-002").startswith("a is held by job-004 until ~12:10, job-001 until ~13:00")
    assert told(case, "job-003") == "behind job-002"
    assert reason_in_words(reasons(case)["job-003"], NOON) == "behind job-002"
    assert forecast(case, "job-002").at == NOON + 3600


def test_a_sharer_keeps_only_its_part_as_the_head() -> None:
    nodes = [node("a", 12000), node("b", 12000)]
    running = [sharer(1, "a-0", 10000, ends=NOON + 600), RunningJob("job-002", frozenset({"b-0"}), NOON + 7200)]
    case = queue(nodes, [waiting(3, share=True, vram=4000), waiting(4, share=True, vram=1500)], *running)
    assert schedule(case).head == "job-003" and starts(case) == {}, "in doubt the head is not delayed"
    assert told(case, "job-003") == (
        "GPU 0 of a is shared by job-001 until ~12:10: 2.0 GiB of 11.7 GiB free; b is held by job-002 until ~14:00"
    )
    assert forecast(case, "job-003").at == NOON + 600


def test_says_that_no_more_jobs_may_share_a_gpu() -> None:
    running = [sharer(number, "a-0", 100) for number in range(1, 1 + MOST_SHARERS)]
    case = queue([node("a", 12000)], [waiting(9, share=0.1)], *running)
    assert told(case, "job-009") == ("GPU 0 of a is shared by job-001, job-002, job-003, job-004: no more may share it")


def test_more_memory_than_any_gpu_has_is_refused_and_unschedulable() -> None:
    case = queue([node("a", 8000), node("b", 12000)], [waiting(1, share=True, vram="40G")])
    assert told(case, "job-001").startswith("is unschedulable: a has only 1 usable GPU (7.8 GiB); b has only 1 usable")
    with pytest.raises(InputError, match=r"1 GPU with 40\.0 GiB of memory to share.*no node can give that") as caught:
        check_request(spec(share=True, vram="40G"), case.inventory, case.capacities)
    assert caught.value.exit_code == 2 and "a: 1 usable GPU (7.8 GiB)" in caught.value.hint
    check_request(spec(share=True, vram="11G"), case.inventory, case.capacities)
    with pytest.raises(InputError):
        check_request(spec(share=True, vram="11G", nodes="a"), case.inventory, case.capacities)


JOB = st.one_of(
    st.builds(lambda mib: {"share": True, "vram": mib}, st.integers(512, 13000)),
    st.builds(lambda tenths: {"share": tenths / 10}, st.integers(1, 9)),
    st.just({"gpus": 1}),
    st.just({"nodes": 1, "gpus_per_node": 1}),
    st.just({"gpus": 2}),
)


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.lists(st.sampled_from([8000, 12000, None]), max_size=2), min_size=1, max_size=3),
    jobs=st.lists(st.tuples(JOB, st.one_of(st.none(), st.integers(1, 100))), max_size=12),
    before=st.lists(st.tuples(st.integers(100, 9000), st.integers(1, 5000)), max_size=4),
)
def test_never_gives_more_memory_than_there_is_and_no_gpu_twice(
    sizes: list[list[int | None]],
    jobs: list[tuple[dict[str, object], int | None]],
    before: list[tuple[int, int]],
) -> None:
    nodes = [node(f"n{number}", *gpus) for number, gpus in enumerate(sizes)]
    slots = {slot.key: slot for offer in nodes for slot in offer.gpus}
    waits = [waiting(100 + at, **fields, time_limit=limit) for at, (fields, limit) in enumerate(jobs)]
    shared: dict[str, dict[str, int]] = {}
    running = []
    for at, (mib, seconds) in enumerate(before):
        known = [key for key, slot in slots.items() if slot.memory_mib]
        free = [key for key in known if sum(shared.get(key, {}).values()) + mib <= (slots[key].memory_mib or 0)]
        if free:
            running.append(sharer(at, free[0], mib, NOON + seconds))
            shared.setdefault(free[0], {})[running[-1].id] = mib
    case = queue(nodes, waits, *running)
    found = Round(case)
    alone: set[str] = set()
    for start in found.starts.values():
        keys, part = placement_keys(start.placement), start.placement.part
        if part is None:
            assert not keys & alone and not any(shared.get(key) for key in keys)
            alone |= keys
        else:
            (key,) = keys
            shared.setdefault(key, {})[start.id] = part.memory_mib
    for key, declared in shared.items():
        assert key not in alone and len(declared) <= MOST_SHARERS
        assert sum(declared.values()) <= (slots[key].memory_mib or 0)
    # The head starts no later than if no job had overtaken it.
    if found.head and found.head_starts_at is not None:
        own = [one for one in found.starts.values() if not one.head]
        overtook = {one.id for one in found.starts.values() if one.head}
        assert len(own) + len(overtook) == len(found.starts)
        at = forecast(case, found.head.id).at
        assert at is not None and at <= found.head_starts_at


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"share": 0}, "--share: found 0: a fraction of one GPU between 0 and 1 is expected, as in 0.5"),
        ({"share": "1.5"}, "--share: found '1.5': a fraction"),
        ({"share": "nan"}, "--share: found 'nan': a fraction"),
        ({"share": "-1"}, "--share: found '-1': a fraction"),
        ({"share": "half"}, "--share: found 'half': a fraction"),
        ({"share": "1e999"}, "--share: found '1e999': a fraction"),
        ({"share": 0.5, "nodes": 2}, "--share: found 0.5: a job that shares a GPU has one rank"),
        ({"share": 0.5, "gpus": 2}, "--share: found 0.5: a job that shares a GPU has one rank"),
        ({"share": 0.5, "gpus_per_node": 2}, "--share: found 0.5: a job that shares a GPU has one rank"),
        ({"share": 0.5, "gpus_per_node": 0}, "--share: found 0.5: a CPU rank has no GPU to share"),
        ({"share": "vram"}, "--share: how much memory does it take? --vram 4G --share"),
        ({"share": 0.5, "vram": "4G"}, "--share: found 0.5: either a fraction is expected, or memory"),
        ({"share": "vram", "vram": 4}, "--vram: no training fits into 4 MiB; did you mean 4G?"),
    ],
)
def test_refuses_what_cannot_share_a_gpu(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        job_spec(script="t.py", **wrong)
    assert caught.value.message.startswith(text) and caught.value.exit_code == 2


def test_reads_a_share_as_a_file_says_it() -> None:
    assert spec(share="0.5").share == 0.5 and spec(share="true", vram="4G").share == "vram"
    assert spec(share=False).share is None and spec(share="no").share is None
    again = JobSpec.model_validate_json(spec(share="yes", vram="4G", gpus=1, nodes="a,b").model_dump_json())
    assert again.share == "vram" and again.gpus_in_all is None
    with pytest.raises(ValidationError):
        spec(share=[0.5])
