"""Which job starts when and where, and why others wait: pure functions over plain data."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugro.common.config import Inventory, JobSpec, NodeConfig
from ugro.common.errors import InputError, NodeError, Unreachable
from ugro.common.models import CodeVersion, Drain, Gpu, Job, JobState, NodeView
from ugro.control_plane.resource_manager.governor import Offer, Slot, offers, placement_keys
from ugro.control_plane.scheduler import (
    SLACK,
    Running,
    Schedule,
    Start,
    Waiting,
    check_request,
    forecast,
    obstacles,
    schedule,
    why,
)

NOON = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))


def spec(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"script": "t.py", **fields})


def waiting(number: int, expected: float | None = None, blocked: tuple[str, ...] = (), **fields: object) -> Waiting:
    wish = spec(**fields)
    expected = wish.time_limit if expected is None else expected
    return Waiting(f"job-{number:03}", wish, wish.priority, number, expected, blocked)


def cluster(**gpus: int) -> dict[str, Offer]:
    """Nodes with so many GPUs, called `<node>-<index>`."""
    slots = {name: tuple(Slot(f"{name}-{n}", "RTX", 8000) for n in range(count)) for name, count in gpus.items()}
    return {name: Offer(name, found or (Slot(f"cpu:{name}", "CPU"),)) for name, found in slots.items()}


def inventory(names: Iterable[str]) -> Inventory:
    return Inventory(nodes={name: NodeConfig(name=name, address="h") for name in names}, path=Path("inventory.yaml"))


def plan(
    nodes: dict[str, Offer], jobs: Iterable[Waiting], running: Iterable[Running] = (), now: float = NOON
) -> Schedule:
    return schedule(jobs, running, nodes, inventory(nodes), now)


def holds(number: int, *keys: str, ends: float | None = None) -> Running:
    return Running(f"job-{number:03}", frozenset(keys), ends)


def started(found: Schedule) -> list[str]:
    return [start.id for start in found.starts]


TWO = cluster(a=1, b=1)


def test_jobs_start_by_priority_and_then_in_the_order_of_submission() -> None:
    found = plan(TWO, [waiting(1, nodes=1), waiting(2, nodes=1), waiting(3, nodes=1, priority=5)])
    assert started(found) == ["job-003", "job-001"]
    assert (found.head, found.head_starts_at) == ("job-002", None)
    assert found.waits == {"job-002": "a is held by job-003; b is held by job-001"}
    assert found.starts[0].why == "its turn"


def test_a_gang_starts_whole_or_not_at_all_and_says_who_holds_what() -> None:
    found = plan(TWO, [waiting(2)], [holds(1, "b-0")])
    assert not found.starts and found.waits == {"job-002": "b is held by job-001"}


def test_a_job_with_an_obstacle_is_passed_over() -> None:
    found = plan(TWO, [waiting(1, blocked=("held until somebody releases it",)), waiting(2)])
    assert started(found) == ["job-002"] and found.waits == {"job-001": "held until somebody releases it"}


def test_the_head_keeps_what_it_waits_for() -> None:
    """job-002 needs both nodes when job-001 ends, so nothing of unknown length may take node a until then."""
    found = plan(TWO, [waiting(2), waiting(3, nodes=1)], [holds(1, "b-0", ends=NOON + 600)])
    assert (found.head, found.head_starts_at) == ("job-002", NOON + 600)
    assert found.waits["job-003"] == "behind job-002"


@pytest.mark.parametrize(("limit", "starts"), [(600 - SLACK, True), (600 - SLACK + 1, False)])
def test_a_job_that_is_surely_over_in_time_overtakes(limit: float, starts: bool) -> None:
    jobs = [waiting(2), waiting(3, nodes=1, time_limit=limit)]
    found = plan(TWO, jobs, [holds(1, "b-0", ends=NOON + 600)])
    assert started(found) == (["job-003"] if starts else [])
    assert not starts or found.starts[0].why == "is over before job-002 can start"


def test_an_expectation_is_no_limit() -> None:
    found = plan(TWO, [waiting(2), waiting(3, expected=60, nodes=1)], [holds(1, "b-0", ends=NOON + 600)])
    assert not found.starts


def test_a_job_overtakes_where_the_head_needs_nothing() -> None:
    nodes = cluster(a=1, b=1, c=1)
    found = plan(nodes, [waiting(2, nodes="a,b"), waiting(3, nodes=1)], [holds(1, "b-0")])
    assert [(start.id, start.placement.shares[0].node) for start in found.starts] == [("job-003", "c")]
    assert found.starts[0].why == "uses nothing that job-002 waits for"


def test_where_an_end_is_unknown_nobody_bets_on_it() -> None:
    found = plan(TWO, [waiting(2), waiting(3, nodes=1, time_limit=1)], [holds(1, "b-0")])
    assert found.head_starts_at is None and not found.starts


def test_a_start_that_depends_on_an_unknown_end_is_unknown() -> None:
    nodes, running = cluster(a=1, b=1, c=1), [holds(1, "a-0"), holds(2, "b-0", ends=NOON + 600)]
    assert plan(nodes, [waiting(3)], running).head_starts_at is None
    assert plan(nodes, [waiting(3, nodes=2)], running).head_starts_at == NOON + 600


def test_requests_for_different_memory_are_told_apart() -> None:
    nodes = cluster(a=1) | {"b": Offer("b", (Slot("b-0", "RTX", 24000),))}
    jobs = [waiting(n, nodes=1, vram=mib) for n, mib in enumerate([30000, 10000, 9000, 8000, 7000])]
    found = plan(nodes, jobs)
    assert started(found) == ["job-001", "job-003"] and found.head == "job-002"
    assert found.waits["job-004"] == "behind job-002"


def test_a_job_that_ran_longer_than_expected_may_end_now() -> None:
    found = plan(TWO, [waiting(2), waiting(3, nodes=1, time_limit=1)], [holds(1, "b-0", ends=NOON - 600)])
    assert found.head_starts_at == NOON and not found.starts


def test_what_no_end_of_a_job_makes_possible_holds_nobody_up() -> None:
    nodes = TWO | {"b": replace(TWO["b"], refusal="b is drained: new fan")}
    found = plan(nodes, [waiting(1), waiting(2, nodes=1), waiting(3, nodes=1)])
    assert started(found) == ["job-002"] and found.head == "job-003"
    assert found.waits["job-001"] == "b is drained: new fan (others go first meanwhile)"
    assert plan(TWO, [waiting(1, nodes=3)]).waits["job-001"].startswith("3 nodes are asked for and the inventory has 2")
    assert plan(TWO, [waiting(1, nodes="z")]).waits["job-001"].startswith("z is not in the inventory any more")


def job(state: JobState = JobState.QUEUED) -> Job:
    code = CodeVersion(directory="/", files=0, size_bytes=0)
    return Job(id="job-009", uid="u", name="n", submitted_at=0.0, command=("t",), code=code, state=state)


@pytest.mark.parametrize(
    ("after", "state", "reason"),
    [
        ("job-001", JobState.RUNNING, "waits for job-001 to succeed"),
        ("job-001", JobState.SUCCEEDED, None),
        ("job-001:success", JobState.FAILED, "waits for job-001 to succeed, but it failed: it will never start"),
        ("job-001", JobState.CANCELLED, "waits for job-001 to succeed, but it was cancelled: it will never start"),
        ("job-001:failure", JobState.FAILED, None),
        ("job-001:failure", JobState.SUCCEEDED, "waits for job-001 to fail, but it succeeded: it will never start"),
        ("job-001:any", JobState.UNKNOWN, "waits for job-001 to end"),
        ("job-001:any", JobState.CANCELLED, None),
        ("job-002", None, "waits for job-002 to succeed, but no such job is known: it will never start"),
    ],
)
def test_a_job_waits_for_others_to_end_as_asked(after: str, state: JobState | None, reason: str | None) -> None:
    others = {"job-001": state} if state else {}
    assert obstacles(job(), spec(after=after), others, NOON) == ((reason,) if reason else ())


def test_a_held_job_and_one_for_later_wait() -> None:
    later = spec(not_before=NOON + 5400)
    assert obstacles(job(JobState.HELD), later, {}, NOON) == ("held until somebody releases it", "not before 13:30")
    assert obstacles(job(), later, {}, NOON + 5400) == ()
    assert obstacles(job(), spec(not_before=NOON + 86400), {}, NOON) == ("not before 2026-11-25 12:00",)


def test_why_tells_every_reason_with_the_nearest_first() -> None:
    nodes = cluster(a=2, b=2, c=2, d=1, e=1)
    nodes["c"] = replace(nodes["c"], busy={"c-0": "GPU 0 (RTX): used by python of alice (pid 7, 900 MiB)"})
    nodes["d"] = replace(nodes["d"], left_out=("GPU 1 (RTX): GPU is lost",))
    nodes["e"] = replace(nodes["e"], refusal="e is drained: new fan")
    jobs = [waiting(3, nodes="a"), waiting(4, nodes=2, gpus_per_node=2)]
    running = [holds(1, "a-0", ends=NOON + 7200), holds(2, "b-0", ends=NOON + 600)]
    assert why("job-004", jobs, running, nodes, inventory(nodes), NOON) == (
        "b is held by job-002 until ~12:10",
        "a is held by job-001 until ~14:00",
        "behind job-003",
        "c: GPU 0 (RTX): used by python of alice (pid 7, 900 MiB)",
        "e is drained: new fan",
        "d has only 1 usable GPU (7.8 GiB), GPU 1 (RTX): GPU is lost",
    )


def test_why_tells_of_too_little_memory_and_of_obstacles_and_nothing_of_a_job_that_starts() -> None:
    jobs = [waiting(1, nodes="a", gpus_per_node=1, vram="10G"), waiting(2, nodes="b"), waiting(3, blocked=("held",))]
    running: list[Running] = []
    asked = (jobs, running, TWO, inventory(TWO), NOON)
    assert why("job-001", *asked) == ("a has only 1 usable GPU (7.8 GiB)",)
    assert why("job-002", *asked) == ()
    assert why("job-003", *asked) == ("held", "b is held by job-002")
    assert why("job-001", [waiting(1, nodes=3)], [], TWO, inventory(TWO), NOON) == (
        "3 nodes are asked for and the inventory has 2",
    )
    with pytest.raises(InputError, match="job-007 does not wait"):
        why("job-007", *asked)


def test_a_forecast_lets_the_jobs_ahead_go_first() -> None:
    jobs = [waiting(2, nodes="a", expected=600), waiting(3, nodes="a", expected=60), waiting(4, nodes="a")]
    running = [holds(1, "a-0", ends=NOON + 1200)]
    said = [forecast(one.id, jobs, running, TWO, inventory(TWO), NOON) for one in jobs]
    assert [(found.at, found.text) for found in said] == [
        (NOON + 1200, "starts ~12:20, when job-001 frees a"),
        (NOON + 1800, "starts ~12:30, when job-002 frees a"),
        (NOON + 1860, "starts ~12:31, when job-003 frees a"),
    ]
    assert forecast("job-005", [waiting(5, nodes=1)], running, TWO, inventory(TWO), NOON).text == "now"


def test_a_forecast_says_what_it_does_not_know() -> None:
    def said(one: Waiting, *ahead: Waiting) -> str:
        found = forecast(one.id, [*ahead, one], [holds(1, "a-0")], TWO, inventory(TWO), NOON)
        assert found.at is None
        return found.text.removeprefix("its start is not known: ")

    assert said(waiting(900)) == "job-001 has no time limit and no history"
    assert said(waiting(900, blocked=("held",))) == "held"
    assert said(waiting(900, nodes=3)) == "3 nodes are asked for and the inventory has 2"
    ahead = [waiting(number) for number in range(2, 203)]
    assert said(waiting(900), *ahead) == "more than 200 jobs are ahead of it"


def view(name: str, gpus: int, **fields: object) -> NodeView:
    made = tuple(
        Gpu.model_validate({"index": n, "uuid": f"GPU-{name}-{n}", "name": "RTX", **fields}) for n in range(gpus)
    )
    return NodeView(node=name, seen_at=1.0, boot_id="b", clock_offset=0.0, cpu_count=2, gpus=made)


OWNERS = inventory(["gpu-master", "gpu1", "gpu2"])


def seen(*drained: str, **views: NodeView | NodeError) -> dict[str, Offer]:
    """The owners' nodes with a GPU each, but for these."""
    idle = {name: views.get(name, view(name, 1)) for name in OWNERS.nodes}
    drains = {name: Drain(node=name, reason="", since=1.0) for name in drained}
    return offers(OWNERS, idle, {}, drains, {}, None)


@pytest.mark.parametrize(
    "wrong",
    [{"nodes": 4}, {"gpus_per_node": 2}, {"nodes": "gpu7"}, {"nodes": 2, "gpus_per_node": 9}],
)
def test_what_can_never_run_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        check_request(spec(**wrong), OWNERS, seen())
    assert caught.value.exit_code == 2


def test_broken_partitioned_and_small_gpus_do_not_count() -> None:
    nodes = seen(gpu1=view("gpu1", 1, problem="GPU is lost"), gpu2=view("gpu2", 1, mig=True))
    with pytest.raises(InputError, match="only 1 node can give that") as caught:
        check_request(spec(gpus_per_node=1), OWNERS, nodes)
    assert "GPU is lost" in caught.value.hint
    small = seen(gpu1=view("gpu1", 1, memory_total_mib=8192))
    with pytest.raises(InputError, match=r"1 GPU with 10\.0 GiB on each of 3 nodes; only 2 nodes") as caught:
        check_request(spec(vram="10G"), OWNERS, small)
    assert "gpu1: 1 usable GPU (8.0 GiB)" in caught.value.hint


def test_a_needed_node_that_does_not_answer_is_told() -> None:
    nodes = seen(gpu2=Unreachable("gpu2", "does not answer"))
    with pytest.raises(NodeError, match="gpu2: does not answer") as caught:
        check_request(spec(), OWNERS, nodes)
    assert caught.value.exit_code == 3
    check_request(spec(nodes=2), OWNERS, nodes)


def test_what_is_only_busy_or_drained_may_be_waited_for() -> None:
    check_request(spec(), OWNERS, seen("gpu1", gpu2=view("gpu2", 1, memory_used_mib=4000)))
    check_request(spec(), OWNERS, seen(**{name: view(name, 0) for name in ("gpu1", "gpu2")}))


SHAPES = st.fixed_dictionaries(
    {
        "nodes": st.one_of(st.none(), st.integers(1, 3), st.sampled_from(["n0", "n1,n0"])),
        "gpus_per_node": st.sampled_from([None, 0, 1, 1, 2]),
        "vram": st.sampled_from([None, 4000, 8000, 16000]),
        "time_limit": st.sampled_from([None, 60, 600, 3000]),
        "priority": st.integers(-1, 1),
    }
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[dict[str, Offer], list[Running], list[Waiting]]:
    nodes = cluster(
        **{f"n{n}": size for n, size in enumerate(draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)))}
    )
    keys = sorted(slot.key for offer in nodes.values() for slot in offer.slots)
    owners = draw(st.lists(st.sampled_from([None, None, "busy", 1, 2, 3]), min_size=len(keys), max_size=len(keys)))
    for name, offer in nodes.items():
        busy = {slot.key: "hot" for slot in offer.gpus if owners[keys.index(slot.key)] == "busy"}
        nodes[name] = replace(offer, busy=busy, refusal=draw(st.sampled_from([None, None, None, "drained"])))
    running = [
        holds(n, *held, ends=draw(st.sampled_from([None, NOON - 9, NOON + 300, NOON + 3000])))
        for n in (1, 2, 3)
        if (held := [key for key, owner in zip(keys, owners, strict=True) if owner == n])
    ]
    wishes: list[dict[str, Any]] = draw(st.lists(SHAPES, max_size=8))
    return nodes, running, [waiting(10 + n, **wish) for n, wish in enumerate(wishes)]


def ran(start: Start, jobs: Iterable[Waiting], now: float) -> Running:
    limit = next(one.spec.time_limit for one in jobs if one.id == start.id)
    return Running(start.id, placement_keys(start.placement), now + limit if limit else None)


@settings(max_examples=200, deadline=None)
@given(situations())
def test_nothing_is_given_twice_and_nobody_delays_the_head(
    case: tuple[dict[str, Offer], list[Running], list[Waiting]],
) -> None:
    nodes, running, jobs = case
    found = plan(nodes, jobs, running)
    assert {*started(found), *found.waits} == {one.id for one in jobs} and all(found.waits.values())
    mine = [ran(start, jobs, NOON) for start in found.starts]
    keys = [key for run in (*running, *mine) for key in run.keys]
    assert len(keys) == len(set(keys)), "no slot has two jobs"
    wishes = {one.id: one.spec for one in jobs}
    for start in found.starts:
        wish, shares = wishes[start.id], start.placement.shares
        assert len(shares) == (
            wish.nodes if isinstance(wish.nodes, int) else len(wish.nodes) if wish.nodes else len(nodes)
        )
        for share in shares:
            offer = nodes[share.node]
            assert not offer.refusal and not set(share.gpus) & set(offer.busy)
            assert not share.gpus or (wish.vram or 0) <= 8000
    turned = dict(reversed(nodes.items()))
    assert schedule(jobs[::-1], running[::-1], turned, inventory(nodes), NOON) == found, "no order of input matters"
    if found.head:
        left = [one for one in jobs if one.id in found.waits]
        after = plan(nodes, left, [*running, *mine])
        assert after.head == found.head and not after.starts
        if found.head_starts_at is not None:
            assert after.head_starts_at is not None and after.head_starts_at <= found.head_starts_at


@settings(max_examples=60, deadline=None)
@given(situations(), st.lists(SHAPES, min_size=1, max_size=3))
def test_no_stream_of_small_jobs_starves_a_job(
    case: tuple[dict[str, Offer], list[Running], list[Waiting]], stream: list[dict[str, Any]]
) -> None:
    """Whatever can run starts at last, though with every minute new jobs of its priority come that would fit."""
    nodes, running, _ = case
    big, now = waiting(9, nodes=len(nodes)), NOON
    if plan(nodes, [big]).head or not plan(nodes, [big]).starts:
        return  # it could not even run alone
    running = [replace(run, ends=run.ends or NOON + 1200) for run in running]
    jobs = [big]
    for minute in range(120):
        wishes = [{**wish, "time_limit": wish["time_limit"] or 120, "priority": 0} for wish in stream]
        jobs += [waiting(100 + minute * 10 + n, **wish) for n, wish in enumerate(wishes)]
        found = plan(nodes, jobs, running, now)
        if big.id in started(found):
            return
        running += [ran(start, jobs, now) for start in found.starts]
        jobs = [one for one in jobs if one.id in found.waits][:20]
        now += 60
        running = [run for run in running if run.ends is None or run.ends > now]
    pytest.fail("the big job did not start within two hours")


def test_a_long_queue_on_a_large_cluster_is_decided_quickly() -> None:
    nodes = cluster(**{f"n{n}": 4 for n in range(64)})
    sizes = [(1, 1), (2, 4), (8, 2), (4, None)]
    jobs = [
        waiting(n, nodes=sizes[n % 4][0], gpus_per_node=sizes[n % 4][1], vram=1000 + n, time_limit=60 + n)
        for n in range(1000)
    ]
    best = min(_seconds(nodes, jobs) for _ in range(3))
    assert best < 0.3, "it takes about 0.02 s on an idle machine"


def _seconds(nodes: dict[str, Offer], jobs: list[Waiting]) -> float:
    began = time.perf_counter()
    plan(nodes, jobs)
    return time.perf_counter() - began
