"""One machine under two names, and one GPU on two nodes: no job gets either twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import InputError, Unreachable
from ugro.common.job_spec import JobSpec
from ugro.common.models.node import NodeView
from ugro.control_plane.preflight.across import judge_names
from ugro.control_plane.resource_manager.governor import Capacity, capacities, placement_keys
from ugro.control_plane.resource_manager.twins import twins
from ugro.control_plane.scheduler.allocator import choose
from ugro.control_plane.scheduler.room import Room
from ugro.control_plane.scheduler.scheduling import check_request
from ugro.testing import builders

NAMES = ("a", "b", "c", "d")


def view(
    name: str, *gpus: str, boot: str = "boot", pids: str | None = "pid:[1]", folder: str | None = "8:1", **more: object
) -> NodeView:
    made = (builders.gpu(number, uuid=uuid, memory_total_mib=8000) for number, uuid in enumerate(gpus))
    return builders.node_view(name, *made, boot_id=boot, pid_namespace=pids, folder=folder, **more)


def offered(*views: NodeView) -> dict[str, Capacity]:
    return capacities(inventory(*views), {view.node: view for view in views}, {}, {}, {}, None)


def inventory(*views: NodeView) -> Inventory:
    return Inventory(nodes={view.node: NodeConfig(name=view.node, address="x", min_disk=0) for view in views})


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (view("b", "GPU-1"), True),
        (view("b", "GPU-1", folder="8:2"), True),  # another user, another base_dir
        (view("b", "GPU-2"), False),  # as the sandbox has it
        (view("b"), True),  # this login does not find nvidia-smi
        (view("b", folder="8:2"), False),
        (view("b", gpu_problem="nvidia-smi does not answer"), False),
        (view("b", "GPU-1", pids="pid:[2]"), False),  # a container
        (view("b", "GPU-1", boot="another"), False),
        (view("b", "GPU-1", pids=None), False),  # as an earlier UGRO remembers it
    ],
)
def test_what_shows_that_two_names_are_one_machine(other: NodeView, same: bool) -> None:
    views = {"a": view("a", "GPU-1"), "b": other}
    found = twins(views, views)
    assert set(found) == ({"b"} if same else set())
    assert not same or found["b"].text("b").startswith("b is a under another name (")


def test_machines_without_gpus_go_by_their_folder() -> None:
    views = {"a": view("a"), "b": view("b", folder="8:2"), "c": view("c"), "d": view("d", boot="another")}
    assert {name: twin.node for name, twin in twins(views, views).items()} == {"c": "a"}
    assert twins(views, {"a": Unreachable("a", "gone"), "c": views["c"]}) == {}


def test_a_launch_on_both_names_is_refused_and_says_what_to_remove() -> None:
    views = view("a", "GPU-1"), view("b", "GPU-2", boot="2"), view("c", "GPU-1")
    known, found = inventory(*views), offered(*views)
    for spec in (JobSpec(script="t.py"), JobSpec(script="t.py", nodes=3), JobSpec(script="t.py", nodes=("a", "c"))):
        with pytest.raises(InputError, match=r"c is a under another name \(both have GPU-1\)") as refusal:
            check_request(spec, known, found)
        assert "remove one of the two from the inventory" in refusal.value.hint and "--nodes a" in refusal.value.hint
    check_request(JobSpec(script="t.py", nodes=2), known, found)
    assert found["c"].refusal and found["c"].remedy == "remove one of the two from the inventory"
    (problem,) = judge_names({view.node: view for view in views})
    assert problem.text.startswith("c is a under another name")


def test_a_gpu_of_two_containers_belongs_to_the_first() -> None:
    views = view("a", "GPU-1", "GPU-2", pids="1"), view("b", "GPU-2", "GPU-3", pids="2")
    found = offered(*views)
    assert [slot.key for slot in found["b"].slots] == ["GPU-3"] and found["b"].refusal is None
    assert found["b"].left_out == ("GPU 0 (RTX): a has it too",)
    assert [remark.text for remark in judge_names({view.node: view for view in views})] == ["GPU-2 is one of a too"]


@st.composite
def clusters(draw: st.DrawFn) -> list[NodeView]:
    return [
        view(
            name,
            *draw(st.lists(st.sampled_from(["GPU-1", "GPU-2", "GPU-3"]), unique=True, max_size=2)),
            boot=draw(st.sampled_from(["1", "2"])),
            pids=draw(st.sampled_from(["1", "2"])),
            folder=draw(st.sampled_from(["8:1", "8:2"])),
        )
        for name in NAMES
    ]


@given(clusters(), st.one_of(st.none(), st.integers(1, 4)), st.one_of(st.none(), st.integers(0, 2)))
def test_no_gpu_and_no_machine_is_placed_twice(
    views: list[NodeView], nodes: int | None, gpus_per_node: int | None
) -> None:
    spec, found = JobSpec(script="t.py", nodes=nodes, gpus_per_node=gpus_per_node), offered(*views)
    first = choose(spec, NAMES, Room(found))
    if first is None:
        return
    assert len(placement_keys(first)) == first.world_size
    chosen = {view.node: view for view in views if view.node in {share.node for share in first.shares}}
    assert not twins(chosen, chosen)
    rest = Room(found)
    rest.take(placement_keys(first))
    second = choose(spec, NAMES, rest)
    assert second is None or not placement_keys(first) & placement_keys(second)
