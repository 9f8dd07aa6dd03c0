"""Launching a job through the service layer: the draft, the plan and its questions, the submission, a rehearsal."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from door import Door

from tests.unit.control_plane.controller.test_tick import STARTED, STAY
from ugro.common.errors import Declined, InputError, JobSpecError, NoSuchNode
from ugro.common.job_spec import JobSpec, job_spec
from ugro.common.models.drain import Drain
from ugro.common.models.job_state import JobState
from ugro.nodes.code_sync import LARGE_BYTES
from ugro.service.code import read_code
from ugro.service.launch import launch, plan_launch
from ugro.service.plan import PlanChanged
from ugro.service.schemas.code import SEND
from ugro.service.schemas.launch import (
    TAKE_OVER,
    DefaultScript,
    DefaultScriptDocument,
    DraftLaunch,
    Launch,
    LaunchDocument,
    LaunchPlan,
    PlanLaunch,
    Rehearse,
)
from ugro.service.schemas.notices import LeftAlone
from ugro.service.schemas.starting import AwaitStart
from ugro.service.submission import LaunchLine, read_spec

THEIRS, LATER = "0123 them@there since 2026-01-01", "4567 others@there since 2026-01-02"


def a_spec(door: Door, text: str = STARTED, **fields: Any) -> JobSpec:
    (door.project / "t.py").write_text(text)
    return JobSpec(script="t.py", workdir=str(door.project), **fields)


def planned(door: Door, spec: JobSpec) -> LaunchPlan:
    return door.call(PlanLaunch(spec=spec, code=door.backend.bring(read_code(spec))))


def owned_by(door: Door, line: str) -> Path:
    owner = door.project.parent / "node" / "owner"
    owner.parent.mkdir(exist_ok=True)
    owner.write_text(f"{line}\n")
    return owner


def asked(plan: LaunchPlan) -> list[str]:
    return [question.id for question in plan.questions]


def test_submits_a_job_and_waits_for_its_start(door: Door) -> None:
    (door.project / "venv").mkdir()
    (door.project / "venv/python").write_text("none")
    plan = planned(door, a_spec(door, STAY, name="demo"))
    assert not plan.questions and not plan.foreign and plan.predicted_mib is None
    assert (plan.draft.note, plan.draft.ignored) == (None, ())
    submitted = door.call(Launch(plan=plan, answers={}))
    assert (submitted.id, submitted.state, submitted.placement) == ("job-001", JobState.QUEUED, None)
    started = door.call(AwaitStart(job="demo"))
    assert started.job.state == JobState.RUNNING and started.expected is None
    document = LaunchDocument.of(plan, started, attended=False).as_json()
    assert document == {
        "id": "job-001",
        "name": "demo",
        "state": "running",
        "note": None,
        "attended": False,
        "reason": None,
        "starts_at": None,
        "never_starts": False,
        "left_out": [{"path": "venv/", "files": 1, "bytes": 4, "more": False}],
        "not_sent": [],
        "lfs_pointers": [],
    }
    assert list(document)[:5] == ["id", "name", "state", "note", "attended"]


def test_says_what_a_job_waits_for(door: Door) -> None:
    door.call(Launch(plan=planned(door, a_spec(door, hold=True)), answers={}))
    draft = door.call(DraftLaunch(spec=a_spec(door, name="later", after=("job-001:any",))))
    door.call(Launch(plan=planned(door, draft.spec), answers={}))
    started = door.call(AwaitStart(job="later"))
    assert started.job.state == JobState.QUEUED and started.expected and not started.expected.never
    assert started.expected.at is None and "job-001" in started.expected.text


def test_drafts_name_other_jobs_by_their_ids(door: Door) -> None:
    door.call(Launch(plan=planned(door, a_spec(door, hold=True, name="first")), answers={}))
    draft = door.call(DraftLaunch(spec=a_spec(door, name="first", after=("first", "first:any"))))
    assert draft.spec.after == ("job-001", "job-001:any")
    assert draft.note == "there is a job named first already (job-001, held); use its ID to mean that one"
    assert planned(door, a_spec(door, after=("first",))).draft.spec.after == ("job-001",)
    with pytest.raises(InputError, match="nobody"):
        door.call(DraftLaunch(spec=a_spec(door, after=("nobody",))))
    with pytest.raises(NoSuchNode):
        door.call(DraftLaunch(spec=a_spec(door, nodes=("there",))))


SLOW = r"(?P<loss>x)?.*.*.*.*.*.*.*.*y"


def test_refuses_a_pattern_that_is_slow_on_hard_lines(door: Door) -> None:
    spec = a_spec(door, metrics={"pattern": SLOW})
    code = door.backend.bring(read_code(spec))
    for request in (DraftLaunch(spec=spec), PlanLaunch(spec=spec, code=code), Rehearse(spec=spec)):
        with pytest.raises(JobSpecError, match=r"metrics\.pattern: it is too slow"):
            door.call(request)
    plan = planned(door, a_spec(door))
    sly = replace(plan, draft=replace(plan.draft, spec=spec))
    with pytest.raises(JobSpecError, match="too slow"):
        door.call(Launch(plan=sly, answers={}))
    usual = a_spec(door, metrics={"pattern": r"@(?P<step>\d+) (?P<loss>\S+)"})
    assert planned(door, usual).draft.spec.metrics.pattern


def test_names_variables_that_ranks_do_not_find(door: Door) -> None:
    inventory = Path(str(door.context.inventory.path))
    inventory.write_text(inventory.read_text().replace("local: true", "local: true, env: {RANK: '7'}"))
    del door.context.inventory
    [ignored] = door.call(DraftLaunch(spec=a_spec(door))).ignored
    assert (ignored.node, ignored.variable, ignored.reason) == ("here", "RANK", "torchrun sets it for each rank")


def test_takes_over_a_node_once_that_is_answered(door: Door) -> None:
    owner = owned_by(door, THEIRS)
    plan = planned(door, a_spec(door))
    [question] = plan.questions
    assert question.id == TAKE_OVER and question.facts == (
        "here is run by another master: them@there since 2026-01-01",
    )
    with pytest.raises(InputError) as refusal:
        door.call(Launch(plan=plan, answers={}))
    assert refusal.value.message == "another master runs here" and "--takeover" in refusal.value.hint
    with pytest.raises(Declined):
        door.call(Launch(plan=plan, answers={TAKE_OVER: False}))
    assert owner.read_text() == f"{THEIRS}\n" and door.store.jobs.live() == []
    owned_by(door, LATER)
    with pytest.raises(PlanChanged) as changed:
        door.call(Launch(plan=plan, answers={TAKE_OVER: True}))
    assert changed.value.changed == ("the masters of the nodes",) and owner.read_text() == f"{LATER}\n"
    door.call(Launch(plan=planned(door, a_spec(door)), answers={TAKE_OVER: True}))
    assert owner.read_text().split()[0] == door.store.config.master().split()[0]
    assert not planned(door, a_spec(door)).questions


@pytest.mark.long
def test_asks_before_much_is_sent(door: Door) -> None:
    with (door.project / "data.bin").open("wb") as data:
        data.truncate(LARGE_BYTES + 1)
    plan = planned(door, a_spec(door))
    assert asked(plan) == [SEND] and plan.questions[0].facts[0].startswith(
        "The working directory has 200 MiB; the largest: data.bin"
    )
    with pytest.raises(InputError, match="200 MiB to send to every node"):
        door.call(Launch(plan=plan, answers={}))
    assert door.store.jobs.live() == []


def test_refuses_a_plan_whose_code_is_another(door: Door) -> None:
    spec = a_spec(door)
    plan = planned(door, spec)
    (door.project / "new.py").write_text("new")
    door.backend.bring(read_code(spec))
    with pytest.raises(PlanChanged) as changed:
        door.call(Launch(plan=plan, answers={}))
    assert changed.value.changed == (f"the code in {door.project}",) and door.store.jobs.live() == []
    door.forget_code()
    with pytest.raises(InputError, match="were not brought"):
        door.call(Launch(plan=plan, answers={}))


def test_refuses_a_plan_whose_node_is_another(door: Door) -> None:
    plan = planned(door, a_spec(door))
    inventory = Path(str(door.context.inventory.path))
    inventory.write_text(inventory.read_text().replace("local: true", "local: true, env: {A: b}"))
    del door.context.inventory
    with pytest.raises(PlanChanged) as changed:
        door.call(Launch(plan=plan, answers={}))
    assert changed.value.changed == ("the nodes",)


def test_refuses_what_the_cluster_has_not(door: Door) -> None:
    with pytest.raises(InputError, match="2 nodes are requested"):
        planned(door, a_spec(door, nodes=2))
    with pytest.raises(InputError, match="2 nodes are requested"):
        door.call(Rehearse(spec=a_spec(door, nodes=2)))


def test_names_the_job_whose_submission_the_asker_leaves(home: Path) -> None:
    with ExitStack() as stack:
        asyncio.run(_leave_in_the_middle(Door(home, stack)))


async def _leave_in_the_middle(door: Door) -> None:
    spec = a_spec(door)
    code = door.backend.bring(read_code(spec))
    plan = await plan_launch(door.context, PlanLaunch(spec=spec, code=code))
    door.context.tell = door.told.append
    launching = asyncio.create_task(launch(door.context, Launch(plan=plan, answers={})))
    await asyncio.sleep(0)  # it has begun
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    [left] = door.told
    assert isinstance(left, LeftAlone) and left.job.id == "job-001"
    assert door.store.jobs.job("job-001").state == JobState.QUEUED
    await door.context.close()


def test_rehearsal_says_what_the_job_itself_would_wait_for(door: Door) -> None:
    assert door.call(Rehearse(spec=a_spec(door, hold=True))).waits == ("held until it is released",)
    first = door.call(Launch(plan=planned(door, a_spec(door, hold=True)), answers={}))
    after = door.call(Rehearse(spec=a_spec(door, after=(first.id,))))
    assert after.waits == ("waits for job-001 to succeed",) and len(after.scripts) == 1
    later = door.call(Rehearse(spec=a_spec(door, not_before=time.time() + 7200)))
    assert [each.startswith("not before ") for each in later.waits] == [True]


def test_rehearses_and_starts_nothing(door: Door) -> None:
    rehearsal = door.call(Rehearse(spec=a_spec(door, args=("--lr", "1"))))
    [script] = rehearsal.scripts
    assert script.node == "here" and "t.py --lr 1" in script.launch_sh and rehearsal.waits == ()
    assert door.store.jobs.live() == [] and not (door.project.parent / "node/jobs").exists()
    door.store.config.drain(Drain(node="here", reason="a new fan", since=time.time()))
    waiting = door.call(Rehearse(spec=a_spec(door)))
    assert "a new fan" in waiting.waits[0] and len(waiting.scripts) == 1


def test_a_plain_command_runs_on_one_node_unless_more_are_asked_for(door: Door) -> None:
    command: dict[str, Any] = {"script": "true", "no_python": True, "launcher": "none"}
    draft = door.call(DraftLaunch(spec=job_spec(**command)))
    assert draft.spec.nodes == 1 and draft.spec.command == ("true",)
    assert door.call(DraftLaunch(spec=job_spec(**command, nodes=2))).spec.nodes == 2
    assert door.call(DraftLaunch(spec=job_spec(script="t.py", launcher="accelerate"))).spec.nodes is None


def test_reads_what_stands_after_dashes_as_a_command_or_as_arguments() -> None:
    inventory = DefaultScriptDocument(script="t.py", inventory="i.yaml")

    def asked_for(words: tuple[str, ...], after: tuple[str, ...], **options: Any) -> JobSpec:
        return read_spec(LaunchLine(words, after, options), lambda: inventory).spec

    plain = asked_for((), ("bash", "train.sh", "--x"), nodes="2", env=("RANK=1",))
    assert (plain.command, plain.launcher, plain.nodes) == (("bash", "train.sh", "--x"), "none", 2)
    assert asked_for((), ("ls",), launcher="none").command == ("ls",)
    for words, after in (((), ("--epochs", "3")), (("--model", "m"), ("x",)), ((), ())):
        found = asked_for(words, after)
        assert (found.script, found.args, found.launcher) == ("t.py", (*words, *after), "torchrun")
    assert asked_for((), (f"{Path.cwd()}/run.sh",)).script == "./run.sh"
    with pytest.raises(InputError, match="--launcher deepspeed starts a script"):
        asked_for((), ("ls",), launcher="deepspeed")
    with pytest.raises(InputError, match="no module or program is named"):
        asked_for((), ("pkg.train",), module=True)
    with pytest.raises(JobSpecError, match="--launcher: found 'none': it runs a command as typed"):
        asked_for(("t.py",), (), launcher="none")
    with pytest.raises(JobSpecError, match=r"--launcher-args: .*the launcher python has no options"):
        asked_for(("t.py",), (), launcher="python", launcher_args="-u")


def test_reads_the_three_forms(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(door.project)
    a_spec(door)
    default = door.call(DefaultScript())
    assert default == DefaultScriptDocument(script=None, inventory=str(door.context.inventory.path))

    def asked_for(said: LaunchLine, script: str | None = None) -> JobSpec:
        return read_spec(said, lambda: replace(default, script=script)).spec

    script = asked_for(LaunchLine(("t.py",), ("--lr", "1"), {"name": "a", "env": ("A=b",), "after": ("x, y",)}))
    assert (script.command, script.name, script.env, script.after) == (
        ("t.py", "--lr", "1"),
        "a",
        {"A": "b"},
        ("x", "y"),
    )
    Path("job.yaml").write_text("script: t.py\nname: b\nenv: {A: a, B: b}\ncheckpoints: out\n")
    options = {"name": "c", "env": ("A=c",), "resume_with": "--from {path}", "time_limit": "90"}
    file = asked_for(LaunchLine(("job.yaml",), ("x",), options))
    assert (file.name, file.env, file.args, file.time_limit) == ("c", {"A": "c", "B": "b"}, ("x",), 5400.0)
    assert (file.checkpoints.dir, file.checkpoints.resume) == ("out", "--from {path}")
    Path("counted.yaml").write_text("script: t.py\ngpus_per_node: 2\nshare: no\n")
    counted = asked_for(LaunchLine(("counted.yaml",), (), {"gpus": 3}))
    assert (counted.gpus, counted.gpus_per_node, counted.share) == (3, None, None), "options win over the file"
    Path("shared.yaml").write_text("script: t.py\nvram: 4G\nshare: true\n")
    assert asked_for(LaunchLine(("shared.yaml",), (), {})).share == "vram"
    model = asked_for(LaunchLine(("--model", "m"), (), {}), "t.py")
    assert model.command == ("t.py", "--model", "m")
    with pytest.raises(InputError, match="no script is named"):
        asked_for(LaunchLine(("--model", "m"), (), {}))
    with pytest.raises(InputError) as refusal:
        asked_for(LaunchLine(("t.py", "--nods", "2"), (), {}, known=("--nodes", "--name")))
    assert refusal.value.hint == "did you mean --nodes? Else put the script's arguments after --: " + (
        "ugro launch t.py -- --nods 2"
    )
