"""What a master shows: the cluster, its jobs, its events and its GPUs, through either backend."""

from __future__ import annotations

import time

import pytest
from door import Door

from ugro.common.errors import InputError
from ugro.common.models.job_state import JobState
from ugro.service.schemas.history import History
from ugro.service.schemas.queries import Attended, Events, Nodes, ShowJob, Status

STAYS = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"


def test_shows_the_cluster_and_its_jobs(door: Door) -> None:
    empty = door.call(Status())
    assert not empty.ever and empty.answer.jobs == () and [node.name for node in empty.answer.nodes] == ["here"]
    assert empty.answer.nodes[0].reachable and empty.answer.nodes[0].cpu_count and not empty.answer.attended
    ended = door.failed("raise SystemExit(3)\n", name="first")
    waiting = door.submit(STAYS, name="second")
    held = door.submit(STAYS, hold=True)
    shown = door.call(Status())
    assert [job.id for job in shown.answer.jobs] == [ended.id, waiting.id, held.id]
    assert [job.position for job in shown.answer.jobs] == [None, 1, None] and shown.ever
    assert shown.recorded == {waiting.id: JobState.QUEUED, held.id: JobState.HELD}
    assert [job.id for job in door.call(Status(states=(JobState.HELD,))).answer.jobs] == [held.id]
    assert [job.id for job in door.call(Status(pattern="fir*")).answer.jobs] == [ended.id]
    assert door.call(Status(since=time.time() + 60)).answer.jobs == ()
    document = shown.answer.as_json()
    assert list(document) == ["schema_version", "nodes", "jobs", "unreadable", "attended", "problems"]
    assert document["jobs"][0]["first_failure"]["exit_code"] == 3


def test_shows_one_job_by_its_name(door: Door) -> None:
    job = door.failed("raise SystemExit(3)\n", name="mine")
    shown = door.call(ShowJob(job="mine"))
    assert shown.answer.id == job.id and shown.answer.state == JobState.FAILED == shown.recorded
    assert shown.folders.keys() == {"here"} and [rank.exit_code for rank in shown.answer.ranks] == [3]
    with pytest.raises(InputError, match="there is no job"):
        door.call(ShowJob(job="nosuch"))


def test_shows_what_happened(door: Door) -> None:
    job = door.failed("raise SystemExit(3)\n")
    kinds = [event.kind for event in door.call(Events(job=job.id)).answer]
    assert kinds[0] == "submitted" and "failed" in kinds
    of_node = door.call(Events(node="here", everything=True)).answer
    assert of_node and all(event.node == "here" for event in of_node)
    assert door.call(Events(since=time.time() + 60)).answer == ()
    with pytest.raises(InputError, match="no node is called"):
        door.call(Events(node="there"))


def test_shows_nodes_and_the_history_of_their_gpus(door: Door) -> None:
    [node] = door.call(Nodes()).answer
    assert (node.name, node.reachable, node.drained, node.departed) == ("here", True, None, False)
    assert door.call(History(since=0.0)).answer == (), "this node has no GPU"
    with pytest.raises(InputError):
        door.call(History(nodes=("there",), since=0.0))


def test_says_whether_a_scheduler_runs(door: Door) -> None:
    assert not door.call(Attended()).attended
    with door.store.exclusive("serve.lock", 0):
        assert door.call(Attended()).attended
