"""Which nodes and GPUs a job gets: pure functions over plain data."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugro.common.config import Inventory, JobSpec, NodeConfig
from ugro.common.errors import InputError, NodeError, Unreachable
from ugro.common.models import CodeVersion, Gpu, Job, JobState, NodeView
from ugro.control_plane.scheduler import Views, allocate, check_request, leases


def view(name: str, gpus: int, problem: str | None = None, mig: bool = False) -> NodeView:
    made = tuple(Gpu(index=n, uuid=f"GPU-{name}-{n}", name="RTX", problem=problem, mig=mig) for n in range(gpus))
    return NodeView(node=name, seen_at=1.0, boot_id="b", clock_offset=0.0, cpu_count=2, gpus=made)


def inventory(*names: str) -> Inventory:
    nodes = {name: NodeConfig(name=name, address="h") for name in names}
    return Inventory(nodes=nodes, path=Path("inventory.yaml"))


OWNERS = inventory("gpu-master", "gpu1", "gpu2")
IDLE: Views = {name: view(name, 1) for name in OWNERS.nodes}


def spec(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"script": "t.py", **fields})


def test_by_default_a_job_gets_the_whole_cluster() -> None:
    placement = allocate(spec(), OWNERS, IDLE, {}).placement
    assert placement and placement.world_size == 3
    assert [(s.node, s.node_rank, s.first_rank, s.gpus) for s in placement.shares] == [
        ("gpu-master", 0, 0, ("GPU-gpu-master-0",)),
        ("gpu1", 1, 1, ("GPU-gpu1-0",)),
        ("gpu2", 2, 2, ("GPU-gpu2-0",)),
    ]


def test_named_nodes_come_in_the_order_of_their_names() -> None:
    placement = allocate(spec(nodes="gpu2,gpu-master"), OWNERS, IDLE, {}).placement
    assert placement and [share.node for share in placement.shares] == ["gpu2", "gpu-master"]


def test_a_gang_starts_whole_or_not_at_all_and_says_who_holds_what() -> None:
    found = allocate(spec(), OWNERS, IDLE, {"GPU-gpu1-0": "job-003"})
    assert found.placement is None
    assert found.reasons == ("gpu1 is held by job-003",)


def test_a_number_of_nodes_takes_those_that_are_free() -> None:
    placement = allocate(spec(nodes=2), OWNERS, IDLE, {"GPU-gpu-master-0": "job-003"}).placement
    assert placement and [share.node for share in placement.shares] == ["gpu1", "gpu2"]


def test_ranks_are_numbered_through_nodes_of_different_sizes() -> None:
    both = inventory("a", "b")
    placement = allocate(spec(), both, {"a": view("a", 3), "b": view("b", 1)}, {}).placement
    assert placement and [(s.nproc, s.first_rank) for s in placement.shares] == [(3, 0), (1, 3)]


def test_broken_and_partitioned_gpus_are_not_used() -> None:
    views: Views = {**IDLE, "gpu1": view("gpu1", 1, problem="GPU is lost"), "gpu2": view("gpu2", 1, mig=True)}
    with pytest.raises(InputError, match="only 1 node can give that") as caught:
        check_request(spec(gpus_per_node=1), OWNERS, views)
    assert "GPU is lost" in caught.value.hint


def test_a_cluster_without_gpus_runs_cpu_ranks() -> None:
    views: Views = {name: view(name, 0) for name in OWNERS.nodes}
    check_request(spec(), OWNERS, views)
    placement = allocate(spec(), OWNERS, views, {}).placement
    assert placement and placement.world_size == 3 and placement.shares[0].gpus == ()
    assert allocate(spec(), OWNERS, views, {"cpu:gpu1": "job-001"}).reasons == ("gpu1 is held by job-001",)


@pytest.mark.parametrize(
    "wrong", [{"nodes": 4}, {"gpus_per_node": 2}, {"nodes": "gpu7"}, {"nodes": 2, "gpus_per_node": 9}]
)
def test_what_can_never_run_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        check_request(spec(**wrong), OWNERS, IDLE)
    assert caught.value.exit_code == 2


def test_a_needed_node_that_does_not_answer_is_told() -> None:
    views: Views = {**IDLE, "gpu2": Unreachable("gpu2", "does not answer")}
    with pytest.raises(NodeError, match="gpu2: does not answer") as caught:
        check_request(spec(), OWNERS, views)
    assert caught.value.exit_code == 3
    check_request(spec(nodes=2), OWNERS, views)


def test_leases_are_what_live_jobs_hold() -> None:
    placement = allocate(spec(nodes="gpu1"), OWNERS, IDLE, {}).placement
    code = CodeVersion(directory="/", files=0, size_bytes=0)
    job = Job(id="job-001", uid="u", name="n", submitted_at=0.0, command=("t",), code=code, placement=placement)
    for state in JobState:
        held = leases([job.model_copy(update={"state": state})])
        assert held == ({"GPU-gpu1-0": "job-001"} if state.on_nodes else {})


@given(
    gpus=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    asked=st.integers(1, 6),
    per_node=st.one_of(st.none(), st.integers(0, 4)),
    taken=st.data(),
)
def test_no_gpu_is_given_twice_and_gangs_are_whole(
    gpus: list[int], asked: int, per_node: int | None, taken: st.DataObject
) -> None:
    names = [f"n{number}" for number in range(len(gpus))]
    cluster, views = inventory(*names), {name: view(name, count) for name, count in zip(names, gpus, strict=True)}
    uuids = [gpu.uuid for seen in views.values() for gpu in seen.gpus] + [f"cpu:{name}" for name in names]
    held = dict.fromkeys(taken.draw(st.lists(st.sampled_from(uuids), unique=True)) if uuids else [], "job-009")
    found = allocate(spec(nodes=asked, gpus_per_node=per_node), cluster, views, held)
    if found.placement is None:
        assert found.reasons or asked > len(names)
        return
    shares = found.placement.shares
    given_gpus = [uuid for share in shares for uuid in share.gpus]
    assert len(shares) == asked == len({share.node for share in shares})
    assert len(set(given_gpus)) == len(given_gpus) and not set(given_gpus) & set(held)
    assert [share.first_rank for share in shares] == [sum(s.nproc for s in shares[:n]) for n in range(len(shares))]
    assert found == allocate(spec(nodes=asked, gpus_per_node=per_node), cluster, views, held), "deterministic"
