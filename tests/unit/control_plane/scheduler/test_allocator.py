"""Which nodes and GPUs a gang gets: pure functions over plain data."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Placement
from ugro.common.models.metrics import MeasuredLink
from ugro.control_plane.resource_manager.balancer import with_batch_shares
from ugro.control_plane.resource_manager.governor import Capacity, Slot, placement_keys
from ugro.control_plane.scheduler.allocator import FASTER, choose, link_rates
from ugro.control_plane.scheduler.room import Room


def spec(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"script": "t.py", **fields})


def node(name: str, *gpus: str | tuple[str, int | None]) -> Capacity:
    """A node with GPUs of these models, with their memory in MiB; its keys are `<node>-<index>`."""
    pairs = [(gpu, None) if isinstance(gpu, str) else gpu for gpu in gpus]
    slots = [Slot(f"{name}-{index}", model, memory) for index, (model, memory) in enumerate(pairs)]
    return Capacity(name, tuple(slots) or (Slot(f"cpu:{name}", "CPU"),))


def place(asked: JobSpec, *nodes: Capacity, taken: tuple[str, ...] = ()) -> Placement | None:
    names = asked.nodes if isinstance(asked.nodes, tuple) else [offer.node for offer in nodes]
    return choose(asked, names, Room({offer.node: offer for offer in nodes}, taken))


def gpus(placement: Placement | None) -> list[tuple[str, ...]]:
    assert placement
    return [share.gpus for share in placement.shares]


def test_by_default_a_job_gets_the_whole_cluster_with_ranks_numbered_through() -> None:
    placement = place(spec(), node("a", "R", "R", "R"), node("b", "R"))
    assert placement and placement.world_size == 4
    assert [(s.node, s.node_rank, s.first_rank, s.nproc) for s in placement.shares] == [("a", 0, 0, 3), ("b", 1, 3, 1)]


def test_one_process_of_a_node_has_all_its_gpus() -> None:
    placement = place(spec(launcher="python", nodes=2), node("a", "R", "R", "R"), node("b", "R"))
    assert placement and [(s.first_rank, s.nproc, len(s.gpus)) for s in placement.shares] == [(0, 1, 3), (1, 1, 1)]
    known = {uuid: ("R", 1.0 + n) for n, uuid in enumerate(sum(gpus(placement), ()))}
    assert with_batch_shares(placement, known) == (placement, None)


def test_named_nodes_come_in_the_order_of_their_names() -> None:
    placement = place(spec(nodes="b,a"), node("a", "R"), node("b", "R"))
    assert placement and [share.node for share in placement.shares] == ["b", "a"]


def test_all_gpus_of_a_node_are_free_only_together() -> None:
    assert place(spec(), node("a", "R", "R"), taken=("a-1",)) is None
    assert gpus(place(spec(gpus_per_node=1), node("a", "R", "R"), taken=("a-0",))) == [("a-1",)]


def test_busy_gpus_and_refusing_nodes_are_not_used() -> None:
    busy = Capacity("a", node("a", "R", "R").slots, busy={"a-0": "too hot"})
    assert place(spec(), busy) is None
    assert gpus(place(spec(gpus_per_node=1), busy)) == [("a-1",)]
    refusing = Capacity("b", node("b", "R").slots, refusal="b is drained")
    assert gpus(place(spec(nodes=1, gpus_per_node=1), refusing, busy)) == [("a-1",)]


def test_gpus_of_one_model_are_preferred_over_nodes() -> None:
    nodes = node("a", "A"), node("b", "B"), node("c", "B")
    assert gpus(place(spec(nodes=2), *nodes)) == [("b-0",), ("c-0",)]
    assert gpus(place(spec(nodes=3), *nodes)) == [("a-0",), ("b-0",), ("c-0",)]


def test_gpus_of_one_model_are_preferred_within_a_node_and_across() -> None:
    assert gpus(place(spec(gpus_per_node=2), node("a", "A", "B", "A"))) == [("a-0", "a-2")]
    assert gpus(place(spec(gpus_per_node=1), node("a", "A", "B"), node("b", "B"))) == [("a-1",), ("b-0",)]
    assert gpus(place(spec(gpus_per_node=3), node("a", "A", "B", "C", "B"))) == [("a-0", "a-1", "a-3")]


def test_the_least_memory_that_is_enough_is_used() -> None:
    nodes = node("a", ("R", 24000)), node("b", ("R", 12000)), node("c", ("R", 8000)), node("d", "R")
    assert gpus(place(spec(nodes=1, vram="10G"), *nodes)) == [("b-0",)]
    assert gpus(place(spec(nodes=2, vram="10G"), *nodes)) == [("a-0",), ("b-0",)]
    assert gpus(place(spec(nodes=3, vram="10G"), *nodes)) == [("a-0",), ("b-0",), ("d-0",)], "unknown may be enough"
    assert place(spec(nodes=4, vram="10G"), *nodes) is None
    assert gpus(place(spec(nodes=1), *nodes)) == [("a-0",)], "the order of the inventory where no need is told"
    assert gpus(place(spec(gpus_per_node=1, vram=7000), node("a", ("R", 9000), ("R", 8000)))) == [("a-1",)]


def test_a_job_that_takes_whole_nodes_leaves_out_gpus_that_are_too_small() -> None:
    mixed = node("a", ("R", 24000), ("S", 8000))
    assert gpus(place(spec(vram="10G"), mixed, taken=("a-1",))) == [("a-0",)]


def test_cpu_ranks_take_one_slot_of_a_node_and_no_gpu() -> None:
    cpu, gpu = node("a"), node("b", "R")
    placement = place(spec(gpus_per_node=0), cpu, gpu, taken=("b-0",))
    assert placement and placement_keys(placement) == {"cpu:a", "cpu:b"} and placement.world_size == 2
    assert place(spec(gpus_per_node=0), cpu, gpu, taken=("cpu:b",)) is None
    assert gpus(place(spec(), cpu, gpu)) == [(), ("b-0",)]
    assert place(spec(gpus_per_node=1), cpu) is None
    assert place(spec(vram="1G"), cpu) is None, "memory of a GPU is asked for"


SLOT = st.tuples(st.sampled_from(["A", "B"]), st.sampled_from([None, 8000, 24000]))


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.lists(SLOT, max_size=4), min_size=1, max_size=5),
    asked=st.integers(1, 5),
    per_node=st.one_of(st.none(), st.integers(0, 3)),
    vram=st.sampled_from([None, 8000, 10000]),
    data=st.data(),
)
def test_a_gang_is_whole_and_gets_only_what_is_free_and_large_enough(
    sizes: list[list[tuple[str, int | None]]], asked: int, per_node: int | None, vram: int | None, data: st.DataObject
) -> None:
    nodes = [node(f"n{number}", *gpus) for number, gpus in enumerate(sizes)]
    slots = {slot.key: slot for offer in nodes for slot in offer.slots}
    taken = tuple(data.draw(st.lists(st.sampled_from(sorted(slots)), unique=True)))
    wish = spec(nodes=asked, gpus_per_node=per_node, vram=vram)
    placement = place(wish, *nodes, taken=taken)
    assert placement == place(wish, *nodes, taken=taken[::-1]), "deterministic"
    if placement is None:
        return
    keys = [key for share in placement.shares for key in share.gpus]
    assert len({share.node for share in placement.shares}) == len(placement.shares) == asked
    assert len(set(keys)) == len(keys) and not placement_keys(placement) & set(taken)
    assert all((slots[key].memory_mib or 24000) >= (vram or 0) for key in keys)
    assert [share.first_rank for share in placement.shares] == [
        sum(share.nproc for share in placement.shares[:rank]) for rank in range(asked)
    ]
    if per_node is not None:
        assert all(len(share.gpus) == per_node for share in placement.shares)


Rates = dict[str, float]
"""Of links in Gbit/s; `ab` is the one between a and b."""


def measured(rates: Rates, backend: str = "gloo") -> list[MeasuredLink]:
    return [
        MeasuredLink(
            source=one, target=other, backend=backend, latency_ms=0.1, gbit_per_s=rate * factor, measured_at=1.0
        )
        for pair, rate in rates.items()
        for one, other, factor in ((pair[0], pair[1], 1.0), (pair[1], pair[0], 1.02))
    ]


def linked(rates: Rates, *nodes: Capacity) -> list[Capacity]:
    known = link_rates(measured(rates))
    return [replace(offer, links=known.get(offer.node, {})) for offer in nodes]


def names(placement: Placement | None) -> str:
    assert placement
    return "".join(share.node for share in placement.shares)


ALIKE = [node(name, "R") for name in "abcd"]
SLOW_A = {"ab": 0.095, "ac": 0.094, "ad": 0.095, "bc": 0.94, "bd": 0.93, "cd": 0.94}


def test_of_nodes_that_are_equal_otherwise_those_with_the_fastest_links_are_used() -> None:
    placement = place(spec(nodes=2), *linked(SLOW_A, *ALIKE))
    assert placement and "a" not in names(placement)
    assert placement.why == "its links are the fastest: 940 Mbit/s against 95 Mbit/s"
    assert names(place(spec(nodes=3), *linked(SLOW_A, *ALIKE))) == "bcd"
    everything = place(spec(), *linked(SLOW_A, *ALIKE))
    assert everything and (names(everything), everything.why) == ("abcd", ""), "there was nothing to choose"
    assert names(place(spec(nodes=1), *linked(SLOW_A, *ALIKE))) == "a", "one node has no link"
    assert names(place(spec(nodes=2, gpus_per_node=0), *linked(SLOW_A, *map(node, "abcd")))) != "ab", "CPUs too"


def test_the_island_with_the_fastest_links_is_used_and_not_the_largest() -> None:
    islands = {"ab": 9.4, "cd": 0.94, "ce": 0.94, "de": 0.94}
    islands |= {pair: 0.095 for pair in ("ac", "ad", "ae", "bc", "bd", "be")}
    nodes = linked(islands, *(node(name, "R") for name in "caebd"))
    assert names(place(spec(nodes=2), *nodes)) == "ab"
    placement = place(spec(nodes=3), *nodes)
    assert placement and (names(placement), placement.why[:26]) == ("ced", "its links are the fastest:")


def test_like_gpus_and_little_waste_matter_more_than_links() -> None:
    rates = {"ab": 0.095, "ac": 9.4, "bc": 9.4}
    assert names(place(spec(nodes=2), *linked(rates, node("a", "R"), node("b", "R"), node("c", "S")))) == "ab"
    sizes = linked(rates, node("a", ("R", 8000)), node("b", ("R", 8000)), node("c", ("R", 9000)))
    assert names(place(spec(nodes=2, vram=7000), *sizes)) == "ab"
    assert names(place(spec(nodes=2), *sizes)) == "ac", "nothing is wasted where no need is told"


def test_where_no_two_gpus_are_alike_links_decide_too() -> None:
    nodes = linked(SLOW_A, node("a", "R"), node("b", "S"), node("c", "T"))
    assert names(place(spec(nodes=2), *nodes)) == "bc"
    pairs = linked({"ab": 0.1, "cd": 10}, node("a", "R"), node("b", "R"), node("c", "S"), node("d", "S"))
    placement = place(spec(nodes=2), *pairs)
    assert placement and names(placement) == "cd" and "10 Gbit/s against 100 Mbit/s" in placement.why


@pytest.mark.parametrize(
    "rates",
    [
        {},
        {"cd": 10.0},  # nothing is known of the usual ones
        {"ab": 0.094},  # nor of the others
        {"ab": 0.94, "ac": 0.99, "ad": 1.0, "bc": 1.1, "cd": 0.94 * FASTER},  # chance
    ],
)
def test_unknown_links_and_small_differences_change_nothing(rates: Rates) -> None:
    placement = place(spec(nodes=2), *linked(rates, *ALIKE))
    assert placement and (names(placement), placement.why) == ("ab", "")


def test_a_set_with_an_unknown_link_is_not_preferred() -> None:
    rates = {"ab": 0.1, "ac": 0.1, "bc": 10.0, "bd": 10.0}
    assert names(place(spec(nodes=3), *linked(rates, *ALIKE))) == "abc", "cd was not measured"
    assert names(place(spec(nodes=3), *linked(rates | {"cd": 10.0}, *ALIKE))) == "bcd"


def test_the_slower_direction_counts_and_backends_are_not_compared() -> None:
    assert link_rates(measured({"ab": 1.0})) == {"a": {"b": 1.0}, "b": {"a": 1.0}}
    both = [*measured({"ab": 90.0}, "nccl"), *measured({"ab": 5.0, "bc": 5.0})]
    assert link_rates(both) == {"a": {"b": 90.0}, "b": {"a": 90.0}}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), size=st.integers(2, 6))
def test_over_ports_and_switches_the_best_set_is_found(data: st.DataObject, size: int) -> None:
    speeds = st.sampled_from([0.1, 1.0, 10.0])
    letters = "abcdef"[:size]
    port = {letter: data.draw(speeds) for letter in letters}
    switch = {letter: data.draw(st.sampled_from("xyz")) for letter in letters}
    uplink = data.draw(speeds)
    model = {letter: data.draw(st.sampled_from("RS")) for letter in letters}
    rates = {
        one + other: min(port[one], port[other], math.inf if switch[one] == switch[other] else uplink)
        for one, other in combinations(letters, 2)
    }
    wanted = data.draw(st.integers(1, size))
    chosen = names(place(spec(nodes=wanted), *linked(rates, *(node(letter, model[letter]) for letter in letters))))

    def slowest(group: str | tuple[str, ...]) -> float:
        return min((rates[one + other] for one, other in combinations(group, 2)), default=math.inf)

    models = len({model[letter] for letter in chosen})
    assert models == min(len({model[letter] for letter in group}) for group in combinations(letters, wanted))
    if models == 1:
        alike = [group for group in combinations(letters, wanted) if len({model[letter] for letter in group}) == 1]
        assert slowest(chosen) == max(map(slowest, alike))
