"""Which nodes and GPUs a gang gets: pure functions over plain data."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ugro.common.config import JobSpec
from ugro.common.models import Placement
from ugro.control_plane.resource_manager.balancer import Room, choose
from ugro.control_plane.resource_manager.governor import Offer, Slot, placement_keys


def spec(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"script": "t.py", **fields})


def node(name: str, *gpus: str | tuple[str, int | None]) -> Offer:
    """A node with GPUs of these models, with their memory in MiB; its keys are `<node>-<index>`."""
    pairs = [(gpu, None) if isinstance(gpu, str) else gpu for gpu in gpus]
    slots = [Slot(f"{name}-{index}", model, memory) for index, (model, memory) in enumerate(pairs)]
    return Offer(name, tuple(slots) or (Slot(f"cpu:{name}", "CPU"),))


def place(asked: JobSpec, *nodes: Offer, taken: tuple[str, ...] = ()) -> Placement | None:
    names = asked.nodes if isinstance(asked.nodes, tuple) else [offer.node for offer in nodes]
    return choose(asked, names, Room({offer.node: offer for offer in nodes}, taken))


def gpus(placement: Placement | None) -> list[tuple[str, ...]]:
    assert placement
    return [share.gpus for share in placement.shares]


def test_by_default_a_job_gets_the_whole_cluster_with_ranks_numbered_through() -> None:
    placement = place(spec(), node("a", "R", "R", "R"), node("b", "R"))
    assert placement and placement.world_size == 4
    assert [(s.node, s.node_rank, s.first_rank, s.nproc) for s in placement.shares] == [("a", 0, 0, 3), ("b", 1, 3, 1)]


def test_named_nodes_come_in_the_order_of_their_names() -> None:
    placement = place(spec(nodes="b,a"), node("a", "R"), node("b", "R"))
    assert placement and [share.node for share in placement.shares] == ["b", "a"]


def test_all_gpus_of_a_node_are_free_only_together() -> None:
    assert place(spec(), node("a", "R", "R"), taken=("a-1",)) is None
    assert gpus(place(spec(gpus_per_node=1), node("a", "R", "R"), taken=("a-0",))) == [("a-1",)]


def test_busy_gpus_and_refusing_nodes_are_not_used() -> None:
    busy = Offer("a", node("a", "R", "R").slots, busy={"a-0": "too hot"})
    assert place(spec(), busy) is None
    assert gpus(place(spec(gpus_per_node=1), busy)) == [("a-1",)]
    refusing = Offer("b", node("b", "R").slots, refusal="b is drained")
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
