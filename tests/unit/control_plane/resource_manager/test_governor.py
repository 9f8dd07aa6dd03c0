"""What each node can give: pure functions over what the nodes said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ugro.common.config import Inventory, NodeConfig
from ugro.common.errors import HostKeyUnknown, NodeError, Unreachable
from ugro.common.models.drain import Drain
from ugro.common.models.gpu import Gpu, GpuProcess
from ugro.common.models.job import NodeShare, Placement
from ugro.common.models.job_state import JobState
from ugro.common.models.node import NodeView
from ugro.control_plane.resource_manager.governor import Capacity, Slot, capacities, leases
from ugro.testing import builders
from ugro.testing.builders import gpu


def capacity(
    view: NodeView | NodeError, held: tuple[str, ...] = (), drain: str | None = None, **config: object
) -> Capacity:
    """The capacity of a node called gpu1, as the master m1 sees it."""
    node = NodeConfig.model_validate({"name": "gpu1", "address": "h", **config})
    drains = {"gpu1": Drain(node="gpu1", reason=drain, since=1.0)} if drain is not None else {}
    inventory = Inventory(nodes={"gpu1": node}, path=Path("inventory.yaml"))
    return capacities(inventory, {"gpu1": view}, dict.fromkeys(held, "job-001"), drains, {}, "m1")["gpu1"]


def view(*gpus: Gpu, **fields: object) -> NodeView:
    return builders.node_view("gpu1", *gpus, **fields)


def process(name: str, **fields: object) -> GpuProcess:
    return GpuProcess(**dict[str, Any](pid=12, name=name, user="alice", memory_mib=900) | fields)


def test_a_node_offers_its_gpus_with_the_memory_that_is_left_for_jobs() -> None:
    found = capacity(view(gpu(memory_total_mib=8000, memory_used_mib=300), gpu(1)), reserve_memory=1000)
    assert found.slots == (Slot("GPU-0", "RTX", 6700, 8000, 0), Slot("GPU-1", "RTX", None, None, 1))
    assert not found.busy and found.refusal is None and not found.left_out


def test_a_leased_gpu_is_never_busy_and_has_its_memory_but_for_the_display() -> None:
    foreign = (process("/usr/lib/xorg/Xorg", memory_mib=100), process("python", memory_mib=6000))
    full = gpu(memory_total_mib=8000, memory_used_mib=7000, temperature_c=99, processes=foreign)
    found = capacity(view(full), held=("GPU-0",))
    assert found.slots == (Slot("GPU-0", "RTX", 7900, 8000, 0),) and not found.busy


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"processes": (process("/usr/bin/python3"),)}, "used by python3 of alice (pid 12, 900 MiB)"),
        ({"processes": (process("a", user=None, memory_mib=None),) * 3}, "used by a (pid 12) and 2 more"),
        ({"processes": (process("Xorg"),), "memory_used_mib": 4000}, "used by Xorg of alice (pid 12, 900 MiB)"),
        ({"memory_used_mib": 2000}, "2.0 GiB are used by a program the driver does not name"),
        ({"temperature_c": 91}, "at 91 °C, over its max_temperature of 90 °C"),
    ],
)
def test_a_gpu_that_others_use_or_that_is_too_hot_is_given_to_nobody(fields: dict[str, Any], reason: str) -> None:
    assert capacity(view(gpu(**fields))).busy == {"GPU-0": f"GPU 0 (RTX): {reason}"}


@pytest.mark.parametrize(
    "fields",
    [
        {"processes": (process("/usr/lib/xorg/Xorg"), process("/usr/bin/kwin_x11"), process("/usr/bin/gnome-shell"))},
        {"processes": (process("/usr/bin/Xwayland :0 -rootless"),), "memory_used_mib": 1000},
        {"memory_used_mib": 1000},
        {"temperature_c": 90},
        {},
    ],
)
def test_a_small_display_and_what_is_unknown_keep_no_gpu_back(fields: dict[str, Any]) -> None:
    assert not capacity(view(gpu(**fields))).busy


def test_an_unreadable_node_refuses_with_its_error() -> None:
    error = HostKeyUnknown("gpu1", "the host key is not known yet", "ugro trust gpu1")
    assert capacity(error) == Capacity("gpu1", refusal=error.message, remedy=error.hint, error=error)
    assert not capacity(error).silent


def test_a_silent_node_tells_since_when_where_that_is_known() -> None:
    error = Unreachable("gpu1", "no route")
    assert capacity(error).silent and capacity(error).refusal == "gpu1 is unreachable (no route)"
    inventory = Inventory(nodes={"gpu1": NodeConfig(name="gpu1", address="h")})
    found = capacities(inventory, {"gpu1": error}, {}, {}, {}, None, {"gpu1": "14:20"})["gpu1"]
    assert found.refusal == "gpu1 is unreachable (since 14:20; no route)"


@pytest.mark.parametrize(
    ("said", "drain", "refusal"),
    [
        ({}, "new fan", "gpu1 is drained: new fan"),
        ({}, "", "gpu1 is drained"),
        ({"disk_free_mib": 500}, None, "gpu1 has 500 MiB of disk free, less than its min_disk of 1.0 GiB"),
        ({"owner": "m2 anna@laptop"}, None, "gpu1 belongs to another master (m2 anna@laptop)"),
        ({"owner": "m1 anna@laptop", "disk_free_mib": 1024}, None, None),
        ({"owner": "m2"}, "fan", "gpu1 belongs to another master (m2); gpu1 is drained: fan"),
    ],
)
def test_what_makes_a_node_take_no_new_job(said: dict[str, object], drain: str | None, refusal: str | None) -> None:
    assert capacity(view(gpu(), **said), drain=drain).refusal == refusal


def test_gpus_that_cannot_be_used_are_left_out_by_name() -> None:
    node = NodeConfig(name="gpu1", address="h")
    gpus = (
        gpu(0, problem="GPU is lost"),
        gpu(1, mig=True),
        gpu(2, uuid=""),
        gpu(3),
    )
    seen = {"gpu1": view(*gpus)}
    known = {"gpu1": {"GPU-9": "A100", "GPU-3": "RTX"}}
    found = capacities(Inventory(nodes={"gpu1": node}), seen, {}, {}, known, None)["gpu1"]
    assert [slot.key for slot in found.slots] == ["GPU-3"]
    assert found.left_out == (
        "GPU 0 (RTX): GPU is lost",
        "GPU 1 (RTX): partitioned (MIG), which UGRO does not use",
        "GPU 2 (RTX): has no UUID",
        "A100 (GPU-9) has disappeared",
    )


def test_only_a_node_that_never_had_gpus_offers_its_cpu_in_their_place() -> None:
    assert capacity(view()).slots == (Slot("cpu:gpu1", "CPU"),) and not capacity(view()).gpus
    broken = capacity(view(gpu_problem="the driver does not answer"))
    assert not broken.slots and broken.left_out == ("the driver does not answer",)
    inventory = Inventory(nodes={"gpu1": NodeConfig(name="gpu1", address="h")})
    gone = capacities(inventory, {"gpu1": view()}, {}, {}, {"gpu1": {"GPU-0": "RTX"}}, None)["gpu1"]
    assert not gone.slots and gone.left_out == ("RTX (GPU-0) has disappeared",)


def test_a_node_that_was_not_asked_offers_nothing() -> None:
    found = capacities(Inventory(nodes={"gpu1": NodeConfig(name="gpu1", address="h")}), {}, {}, {}, {}, None)["gpu1"]
    assert found.refusal == "gpu1: was not asked" and found.error


def test_leases_are_what_live_jobs_hold() -> None:
    shares = (
        NodeShare(node="gpu1", node_rank=0, first_rank=0, nproc=1, gpus=("GPU-0",)),
        NodeShare(node="gpu2", node_rank=1, first_rank=1, nproc=1),
    )
    job = builders.job(placement=Placement(shares=shares))
    for state in JobState:
        held = leases([job.model_copy(update={"state": state})])
        assert held == ({"GPU-0": "job-001", "cpu:gpu2": "job-001"} if state.on_nodes else {})


def test_a_cpu_job_holds_the_machine_it_runs_on_whatever_that_is_called_today() -> None:
    def node(name: str, address: str) -> NodeConfig:
        return NodeConfig(name=name, address=address)

    share = NodeShare(node="gpu1", node_rank=0, first_rank=0, nproc=1, config=node("gpu1", "10.0.0.1"))
    job = builders.job(JobState.RUNNING, placement=Placement(shares=(share,)))
    swapped = {"gpu1": node("gpu1", "10.0.0.2"), "gpu2": node("gpu2", "10.0.0.1")}
    assert leases([job], swapped) == {"cpu:gpu2": "job-001"}
    assert leases([job], {"alpha": node("alpha", "10.0.0.1")}) == {"cpu:alpha": "job-001"}
    both = {"alpha": node("alpha", "10.0.0.1"), "gpu1": node("gpu1", "10.0.0.1")}
    assert leases([job], both).keys() == {"cpu:alpha", "cpu:gpu1"}
    for unknown in ({}, {"gpu1": node("gpu1", "host-a")}):
        assert leases([job], unknown) == {"cpu:gpu1": "job-001"}, "what cannot be told apart stays held"
