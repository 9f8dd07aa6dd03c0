"""GPUs in all (`--gpus N`): which nodes give how many, and what is said where they do not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import InputError, JobSpecError, Unreachable
from ugro.common.job_spec import JobSpec, job_spec
from ugro.common.models.job import Placement
from ugro.control_plane.metadata_store.history import run_of
from ugro.control_plane.resource_manager.governor import Capacity, Slot, placement_keys
from ugro.control_plane.scheduler.allocator import choose
from ugro.control_plane.scheduler.backfill import Queue, RunningJob, WaitingJob
from ugro.control_plane.scheduler.forecast import forecast
from ugro.control_plane.scheduler.gpu_count import even_counts
from ugro.control_plane.scheduler.pending_words import forecast_in_words, reason_in_words
from ugro.control_plane.scheduler.room import Room
from ugro.control_plane.scheduler.scheduling import check_request, placement_when_idle, schedule, why

NOON = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))


def spec(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"script": "t.py", **fields})


def node(name: str, *gpus: str | tuple[str, int | None], **fields: object) -> Capacity:
    pairs = [(gpu, None) if isinstance(gpu, str) else gpu for gpu in gpus]
    slots = [Slot(f"{name}-{index}", model, memory) for index, (model, memory) in enumerate(pairs)]
    return replace(Capacity(name, tuple(slots) or (Slot(f"cpu:{name}", "CPU"),)), **fields)  # type: ignore[arg-type]


def place(asked: JobSpec, *nodes: Capacity, taken: tuple[str, ...] = ()) -> Placement | None:
    names = asked.nodes if isinstance(asked.nodes, tuple) else [offer.node for offer in nodes]
    return choose(asked, names, Room({offer.node: offer for offer in nodes}, taken))


def counts(placement: Placement | None) -> dict[str, int]:
    assert placement
    return {share.node: share.nproc for share in placement.shares}


def queue(nodes: list[Capacity], jobs: list[WaitingJob], *running: RunningJob) -> Queue:
    configs = {offer.node: NodeConfig(name=offer.node, address="h") for offer in nodes}
    inventory = Inventory(nodes=configs, path=Path("inventory.yaml"))
    return Queue(tuple(jobs), running, {offer.node: offer for offer in nodes}, inventory, NOON)


def waiting(number: int, **fields: object) -> WaitingJob:
    asked = spec(**fields)
    return WaitingJob(f"job-{number:03}", asked, asked.priority, number, asked.time_limit)


def told(case: Queue, job_id: str) -> str:
    return "; ".join(reason_in_words(reason, NOON) for reason in why(case, job_id))


def test_uses_the_fewest_nodes() -> None:
    nodes = node("a", "R"), node("b", "R", "R", "R", "R"), node("c", "R", "R")
    assert counts(place(spec(gpus=1), *nodes)) == {"a": 1}
    assert counts(place(spec(gpus=3), *nodes)) == {"b": 3}
    assert counts(place(spec(gpus=4), *nodes, taken=("b-0",))) == {"b": 2, "c": 2}
    assert counts(place(spec(gpus=7), *nodes)) == {"a": 1, "b": 4, "c": 2}
    assert place(spec(gpus=8), *nodes) is None


def test_counts_are_equal_where_possible_and_else_as_even_as_the_nodes_allow() -> None:
    nodes = node("a", "R", "R"), node("b", "R", "R", "R", "R"), node("c", "R", "R", "R")
    assert counts(place(spec(gpus=6), *nodes)) == {"b": 3, "c": 3}
    assert counts(place(spec(gpus=7), *nodes)) == {"b": 4, "c": 3}
    assert counts(place(spec(gpus=5), *nodes)) == {"b": 3, "c": 2}
    placement = place(spec(gpus=8), *nodes)
    assert counts(placement) == {"a": 2, "b": 3, "c": 3}
    assert placement and [share.first_rank for share in placement.shares] == [0, 2, 5]
    assert placement.world_size == 8


def test_stays_within_named_nodes_or_takes_the_number_of_them() -> None:
    nodes = node("a", "R", "R"), node("b", "R", "R"), node("c", "R", "R")
    assert counts(place(spec(gpus=2, nodes="c,b"), *nodes)) == {"c": 2}
    assert counts(place(spec(gpus=3, nodes="c,b"), *nodes)) == {"c": 2, "b": 1}
    assert counts(place(spec(gpus=2, nodes=2), *nodes)) == {"a": 1, "b": 1}
    assert place(spec(gpus=5, nodes=2), *nodes) is None


def test_prefers_gpus_of_one_model_and_little_wasted_memory() -> None:
    mixed = node("a", "A", "A", "B"), node("b", "B", "B", "A")
    placement = place(spec(gpus=3), *mixed)
    assert placement and len(placement.shares) == 1, "fewest nodes first"
    apart = node("a", "A", "B", "B"), node("b", "B", "A"), node("c", "A", "A")
    assert counts(place(spec(gpus=4, nodes=3), *apart)) == {"a": 1, "b": 1, "c": 2}
    placement = place(spec(gpus=3, nodes=2), *apart)
    assert placement and placement_keys(placement) == {"a-0", "c-0", "c-1"}, "all are A"
    sizes = node("a", ("R", 24000), ("R", 24000), ("R", 24000)), node("b", ("R", 8000)), node("c", ("R", 12000))
    assert counts(place(spec(gpus=1, vram="10G"), *sizes)) == {"c": 1}
    assert place(spec(gpus=5, vram="10G"), *sizes) is None


def test_prefers_fast_links_among_equals() -> None:
    rates = {"ab": 0.1, "ac": 0.1, "bc": 9.4}
    links = {
        name: {other: rate for pair, rate in rates.items() if name in pair for other in pair if other != name}
        for name in "abc"
    }
    nodes = [node(name, "R", "R", links=links[name]) for name in "abc"]
    assert counts(place(spec(gpus=4), *nodes)) == {"b": 2, "c": 2}
    placement = place(spec(gpus=3), *nodes)
    assert counts(placement) == {"b": 2, "c": 1}
    assert placement and placement.why == "its links are the fastest: 9.4 Gbit/s against 100 Mbit/s"


SLOT = st.tuples(st.sampled_from(["A", "B"]), st.sampled_from([None, 8000, 24000]))


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.lists(SLOT, max_size=4), min_size=1, max_size=5),
    asked=st.integers(1, 9),
    on=st.one_of(st.none(), st.integers(1, 3)),
    vram=st.sampled_from([None, 10000]),
    data=st.data(),
)
def test_gives_as_many_as_requested_on_the_fewest_nodes_and_each_once(
    sizes: list[list[tuple[str, int | None]]], asked: int, on: int | None, vram: int | None, data: st.DataObject
) -> None:
    nodes = [node(f"n{number}", *gpus) for number, gpus in enumerate(sizes)]
    slots = {slot.key: slot for offer in nodes for slot in offer.gpus}
    taken = tuple(data.draw(st.lists(st.sampled_from(sorted(slots)), unique=True))) if slots else ()
    wish = spec(gpus=max(asked, on or 1), nodes=on, vram=vram)
    placement = place(wish, *nodes, taken=taken)
    able = {key for key, slot in slots.items() if key not in taken and (slot.memory_mib or 24000) >= (vram or 0)}
    free = sorted((sum(slot.key in able for slot in offer.gpus) for offer in nodes), reverse=True)
    free = [number for number in free if number]
    fits = [number for number in range(1, len(free) + 1) if sum(free[:number]) >= (wish.gpus or 0)]
    if on is not None:
        fits = [number for number in fits if number <= on <= len(free)]
    assert (placement is not None) == bool(fits)
    if placement is None:
        return
    keys = [key for share in placement.shares for key in share.gpus]
    assert len(keys) == len(set(keys)) == wish.gpus == placement.world_size and set(keys) <= able
    assert len(placement.shares) == (on or fits[0])
    assert placement == place(wish, *nodes, taken=taken[::-1]), "deterministic"
    if taken:  # more room never takes a placement away, and never spreads it
        roomier = place(wish, *nodes, taken=taken[1:])
        assert roomier and len(roomier.shares) <= len(placement.shares)


@given(limits=st.lists(st.integers(1, 8), min_size=1, max_size=6), data=st.data())
def test_divides_evenly_within_limits(limits: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(len(limits), sum(limits)))
    found = even_counts(total, limits)
    assert sum(found) == total and all(1 <= one <= limit for one, limit in zip(found, limits, strict=True))
    short = [one for one, limit in zip(found, limits, strict=True) if one < limit]
    assert not short or max(found) - min(short) <= 1


def test_waits_and_says_who_holds_the_gpus_and_when_it_starts() -> None:
    nodes = [node("a", "R", "R"), node("b", "R", "R")]
    first = RunningJob("job-001", frozenset({"b-0"}), NOON + 600)
    case = queue(nodes, [waiting(2, gpus=4), waiting(3, gpus=1, time_limit=60), waiting(4, gpus=1)], first)
    found = schedule(case)
    assert [start.id for start in found.starts] == ["job-003"] and found.head == "job-002"
    assert told(case, "job-002").startswith("a is held by job-003 until ~") and "b is held by job-001" in told(
        case, "job-002"
    )
    assert told(case, "job-004").startswith("a is held by job-003") and "behind job-002" in told(case, "job-004")
    assert forecast(case, "job-002").at == NOON + 600


def test_says_that_too_many_gpus_are_unschedulable() -> None:
    nodes = [node("a", "R", "R"), node("b", "R", "R")]
    case = queue(nodes, [waiting(1, gpus=5)])
    assert told(case, "job-001") == (
        "is unschedulable: 5 of 4 usable GPUs are requested; to start it: launch it again for less, "
        "or cancel it: ugro cancel job-001"
    )
    assert [start.id for start in schedule(queue(nodes, [waiting(1, gpus=5), waiting(2, gpus=4)])).starts] == [
        "job-002"
    ]
    drained = [nodes[0], replace(nodes[1], refusal="b is drained", remedy="ugro undrain b")]
    assert told(queue(drained, [waiting(1, gpus=3)]), "job-001").startswith(
        "is unschedulable: 3 of 2 usable GPUs are requested (b is drained); to start it: ugro undrain b and launch"
    )


def test_waits_for_an_unreachable_node_that_may_have_the_gpus() -> None:
    silent = Capacity("b", refusal="b is unreachable", error=Unreachable("b", "no route"))
    case = queue([node("a", "R"), silent], [waiting(1, gpus=3)])
    assert forecast_in_words(forecast(case, "job-001"), NOON) == "b is unreachable; it starts when it does"
    check_request(spec(gpus=99), case.inventory, case.capacities)


def test_refuses_more_gpus_than_the_nodes_have() -> None:
    case = queue([node("a", "R", ("R", 8000)), node("b", "R"), node("c")], [])
    with pytest.raises(InputError, match="requested: 4 GPUs in all; only 3 can be given") as caught:
        check_request(spec(gpus=4), case.inventory, case.capacities)
    assert caught.value.exit_code == 2
    assert caught.value.hint.startswith("it would fit with --gpus 3; a: 2 usable GPUs")
    with pytest.raises(InputError, match=r"5 GPUs with 9\.8 GiB of memory in all on 2 nodes; only 2 can be given"):
        check_request(spec(gpus=5, nodes=2, vram=10000), case.inventory, case.capacities)
    check_request(spec(gpus=3), case.inventory, {**case.capacities, "b": replace(case.capacities["b"], refusal="d")})
    assert counts(placement_when_idle(case, spec(gpus=3))) == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"gpus": 2, "gpus_per_node": 1}, "--gpus-per-node: found 1: GPUs are counted in all ('gpus') or on each node"),
        ({"gpus": 2, "nodes": 3}, "--gpus: found 2: at least one GPU for each of the 3 nodes is expected"),
        ({"gpus": 0}, "--gpus: found 0: "),
    ],
)
def test_refuses_counts_that_contradict(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        job_spec(script="t.py", **wrong)
    assert caught.value.message.startswith(text) and caught.value.exit_code == 2
    with pytest.raises(ValidationError):
        spec(**wrong)


def test_equal_runs_ask_for_as_many_gpus() -> None:
    assert len({run_of(spec()), run_of(spec(gpus=2)), run_of(spec(gpus=4)), run_of(spec(gpus_per_node=2))}) == 4
