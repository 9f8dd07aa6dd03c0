"""What has to be so whatever happened: each check returns what is wrong, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from chaos.faults import Fault
from chaos.processes import Process
from chaos.training import Mark, state_after
from ugro.common.models.event_kind import EventKind
from ugro.control_plane.transitions import EDGES, Stage

UNSEEN = {EventKind.HANG, EventKind.IDLE, EventKind.PRIORITY, EventKind.RESTORED}
"""Changes that no fault of a schedule brings about."""

UNDONE = {(Stage.RUNNING, EventKind.RUNNING), (Stage.HELD, EventKind.HELD), (Stage.QUEUED, EventKind.FAILED)} | {
    (Stage.SUCCEEDED, EventKind.RESUMED)
}
"""Edges that no fault of a schedule takes: hangs, other reasons to hold, broken specs, success that is repeated."""


def ends_honestly(job: Mapping[str, Any], kills: Sequence[Fault], cuts: Sequence[Fault]) -> list[str]:
    """A job has ended, and one that failed names a cause which a fault explains: one that killed some of it, or cut
    its node off."""
    if job["state"] in ("succeeded", "cancelled"):
        return []
    failure = job["first_failure"]
    if job["state"] != "failed" or failure is None:
        return [f"{job['id']} is {job['state']} ({job['reason']})"]
    cut = failure["node"] in {cut.node for cut in cuts}
    explained = {"killed": bool(kills), "launch_failed": cut, "node_lost": cut}
    if explained.get(failure["cause"], False):
        return []
    hit = sorted({fault.kind for fault in kills}) or "nothing"
    return [f"{job['id']} failed ({failure['cause']} on {failure['node']}: {failure['message']}); it was hit by {hit}"]


def counted(job: Mapping[str, Any], trace: Sequence[Mark], steps: int) -> list[str]:
    """Every attempt resumed from the last complete checkpoint, without a gap, and got as far as an undisturbed run."""
    wrong = []
    furthest_saved = 0
    for attempt in sorted({mark.attempt for mark in trace}):
        mine = [mark for mark in trace if mark.attempt == attempt]
        starts = {mark.step for mark in mine if mark.what == "began"}
        if len(starts) != 1 or min(starts) < furthest_saved:
            wrong.append(f"attempt {attempt} began at {sorted(starts)}, and {furthest_saved} was saved")
        for rank in sorted({mark.rank for mark in mine}):
            done = [mark.step for mark in mine if mark.rank == rank and mark.what in ("began", "step")]
            if done != list(range(done[0], done[0] + len(done))):
                wrong.append(f"attempt {attempt}, rank {rank}: steps {done}")
        furthest_saved = max([furthest_saved, *(mark.step for mark in mine if mark.what == "saved")])
    wrong += [
        f"{mark} has another state than an undisturbed run" for mark in trace if mark.state != state_after(mark.step)
    ]
    if job["state"] == "succeeded":
        ends = sorted(
            (mark.rank, mark.step) for mark in trace if mark.attempt == job["attempt"] and mark.what == "done"
        )
        if ends != [(rank["rank"], steps) for rank in job["ranks"]]:
            wrong.append(f"succeeded, but at the end there were {ends} of {steps} steps")
    return [f"{job['id']}: {problem}" for problem in wrong]


def alone(traces: Mapping[str, Sequence[Mark]]) -> list[str]:
    """No two attempts of a job at the same time anywhere, and no two jobs at the same time on a node's one GPU."""
    spans: dict[tuple[str, str, int], list[float]] = {}
    for job, trace in traces.items():
        for mark in trace:
            for place in (job, mark.node):
                spans.setdefault((place, job, mark.attempt), []).append(mark.at)
    order = sorted((place, min(times), max(times), job, attempt) for (place, job, attempt), times in spans.items())
    return [
        f"on {one[0]}: {one[3]} attempt {one[4]} and {two[3]} attempt {two[4]} at the same time"
        for one, two in pairwise(order)
        if one[0] == two[0] and two[1] < one[2]
    ]


def together(processes: Iterable[Process]) -> list[str]:
    """The same, of what runs just now."""
    ranks = {(process.node, process.job, process.attempt) for process in processes if process.role == "rank"}
    by_node = [
        f"{node}: several jobs" for node, others in _grouped((node, job) for node, job, _ in ranks) if others > 1
    ]
    return by_node + [f"{job}: several attempts" for job, n in _grouped((job, at) for _, job, at in ranks) if n > 1]


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, int]]:
    groups: dict[str, set[str]] = {}
    for key, value in pairs:
        groups.setdefault(key, set()).add(value)
    return [(key, len(values)) for key, values in groups.items()]


def kept(job: str, trace: Sequence[Mark], listing: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a script saved completely is there and complete; none that was damaged last is called so."""
    whole = {one["step"] for one in listing if one["whole"]}
    last = {mark.step: mark.what for mark in trace if mark.what in ("saved", "torn")}
    lost = [
        f"{job}: the checkpoint of step {step} is lost"
        for step, what in last.items()
        if what == "saved" and step not in whole
    ]
    return lost + [
        f"{job}: the torn checkpoint of step {step} counts as whole"
        for step, what in last.items()
        if what == "torn" and step in whole
    ]


def told_in_order(job: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Events make sense one after the other, and end with the state of the record."""
    kinds = [EventKind(event["kind"]) for event in events if not event.get("noted")]
    stage = Stage.QUEUED
    wrong = [] if kinds[0] == EventKind.SUBMITTED else [f"it began with {kinds[0]}"]
    for kind in kinds[1:]:
        after = EDGES.get(kind, {}).get(stage)
        if after is None or kind in UNSEEN or (stage, kind) in UNDONE:
            wrong.append(f"{kind} while {stage}")
        stage = after or stage
    times = [event["at"] for event in events]
    if times != sorted(times):
        wrong.append("times run backwards")
    if stage != job["state"]:
        wrong.append(f"the events end with {stage}, the state is {job['state']}")
    return [f"{job['id']}: {problem} in {[kind.value for kind in kinds]}" for problem in wrong]
