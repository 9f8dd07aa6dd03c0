"""Acts on nodes: drains, commands, speeds, scheduling passes, and what is removed from them, through either backend."""

from __future__ import annotations

from pathlib import Path

import pytest
from door import Door

from ugro.common.errors import Declined, InputError
from ugro.common.models.job_state import JobState
from ugro.service.plan import PlanChanged
from ugro.service.schemas.footprint import Clean, FootprintDocument, PlanClean, ShowFootprint
from ugro.service.schemas.maintenance import (
    CommandEnd,
    CommandOutput,
    DrainNode,
    Measure,
    RunCommand,
    SelectNodes,
    Sweep,
    UndrainNode,
)


def test_drains_a_node_and_takes_it_back(door: Door) -> None:
    drained = door.call(DrainNode(node="here", reason="new\nfan"))
    assert drained.as_json() == {"node": "here", "drained": True, "reason": "new fan", "running": []}
    assert door.store.config.drains()["here"].reason == "new fan"
    assert door.call(UndrainNode(node="here")).was_drained and not door.call(UndrainNode(node="here")).was_drained
    for request in (DrainNode(node="there", reason="x"), UndrainNode(node="there"), DrainNode(node="here", reason=" ")):
        with pytest.raises(InputError):
            door.call(request)


def test_runs_a_command_and_brings_any_bytes(door: Door) -> None:
    words = ("sh", "-c", "printf 'a\\377b'; echo oh >&2; exit 7")
    *printed, ended = list(door.stream(RunCommand(words=words, live=True)))
    said = {stream: b"" for stream in ("stdout", "stderr")}
    for output in printed:
        assert isinstance(output, CommandOutput) and output.node == "here"
        said[output.stream] += output.data
    assert said == {"stdout": b"a\xffb", "stderr": b"oh\n"}
    assert isinstance(ended, CommandEnd) and ended.worst == 7
    assert (ended.answer.exit_code, ended.answer.error) == (7, None)
    [quiet] = list(door.stream(RunCommand(words=("echo $((6*7))",), live=False)))
    assert isinstance(quiet, CommandEnd) and quiet.answer.stdout == "42\n"
    with pytest.raises(InputError, match="the command is empty"):
        list(door.stream(RunCommand(words=("",), live=True)))


def test_selects_and_measures_nodes(door: Door) -> None:
    assert door.call(SelectNodes()).names == ("here",)
    with pytest.raises(InputError):
        door.call(SelectNodes(nodes="there"))
    measured = door.call(Measure(nodes="here"))
    assert measured.answer == () and measured.exit_code == len(measured.errors) * 3, "this node has no GPU"


def test_makes_a_scheduling_pass(door: Door) -> None:
    job = door.submit("print('fine')\n")
    swept = door.call(Sweep())
    assert swept.busy is None and "starting" in [event.kind for event in swept.answer.changes if event.job == job.id]
    door.until(job, JobState.SUCCEEDED)
    again = door.call(Sweep()).answer.changes
    assert not [event for event in again if event.kind == "starting"], "only what this pass changed"


def test_a_scheduling_pass_leaves_a_file_for_prometheus(door: Door, tmp_path: Path) -> None:
    job = door.submit("print('fine')\n")
    assert door.call(Sweep(textfile=str(tmp_path))).untold is None
    written = (tmp_path / "ugro.prom").read_text()
    assert 'ugro_node_up{node="here"} 1.0' in written and "ugro_last_sweep_timestamp_seconds" in written
    assert job.id in written and "_total" not in written, "counts are of a process, and each pass may be another one"
    swept = door.call(Sweep(textfile=str(tmp_path / "ugro.prom")))
    assert swept.untold is not None and "ugro.prom cannot be written: Not a directory" in swept.untold.message
    door.until(job, JobState.SUCCEEDED)


def test_cleans_a_node_as_planned_and_nothing_else(door: Door) -> None:
    door.failed("raise SystemExit(3)\n")
    [found] = door.call(ShowFootprint()).nodes
    assert isinstance(found, FootprintDocument) and [job.id for job in found.jobs] == ["job-001"]
    plan = door.call(PlanClean(node="here"))
    assert [question.id for question in plan.questions] == ["remove"] and "jobs/job-001" in plan.own
    with pytest.raises(InputError, match="confirmation needed, but stdin is not a terminal"):
        door.call(Clean(plan=plan, answers={}))
    with pytest.raises(Declined, match="nothing was removed"):
        door.call(Clean(plan=plan, answers={"remove": False}))
    door.failed("raise SystemExit(4)\n")
    with pytest.raises(PlanChanged) as changed:
        door.call(Clean(plan=plan, answers={"remove": True}))
    assert changed.value.changed == ("the jobs on here",)
    jobs = Path(found.base_dir).expanduser() / "jobs"
    assert jobs.exists()
    cleaned = door.call(Clean(plan=door.call(PlanClean(node="here")), answers={"remove": True})).answer
    assert cleaned.left == () and {"jobs/job-001", "jobs/job-002"} <= set(cleaned.removed) and not jobs.exists()
    assert door.call(PlanClean(node="here")).own == ()
