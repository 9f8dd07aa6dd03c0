"""Launches a job: what it would be, what it needs consent for, its submission, and a rehearsal without one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ugro.common.errors import InputError, JobSpecError, NodeError
from ugro.common.fields import looks_secret, without_effect
from ugro.common.job_spec import PATTERN_HINT, JobSpec
from ugro.common.metric_pattern import try_out
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.models.node import NodeView
from ugro.common.text import printable
from ugro.control_plane.metadata_store.records import stop_where_held
from ugro.control_plane.resource_manager.predictor.expectation import Expectation, expect_memory
from ugro.control_plane.scheduler.allocator import candidates
from ugro.control_plane.scheduler.arguments import declared
from ugro.control_plane.scheduler.command import source_text
from ugro.control_plane.scheduler.pending_words import reason_in_words
from ugro.control_plane.scheduler.queue import blockers_of, read_capacities, read_queue
from ugro.control_plane.scheduler.scheduling import check_request, placement_of, placement_when_idle, why
from ugro.control_plane.scheduler.submission import namesake, submit
from ugro.control_plane.scheduler.sweeps import combinations
from ugro.nodes.code_sync import CodeSelection
from ugro.nodes.remote.owner import owner
from ugro.service.code import question_of_size
from ugro.service.context import Context
from ugro.service.plan import Fingerprint, Question, consented
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.launch import (
    FIT,
    TAKE_OVER,
    DefaultScript,
    DefaultScriptDocument,
    Draft,
    DraftLaunch,
    ForeignNode,
    IgnoredVariable,
    Launch,
    LaunchPlan,
    NodeScript,
    PlanLaunch,
    Rehearsal,
    Rehearse,
)
from ugro.service.schemas.notices import LeftAlone


async def default_script(context: Context, _: DefaultScript) -> DefaultScriptDocument:
    """Return the script that a launch without one runs.

    Raises:
        InventoryError: the inventory does not exist, or has a mistake.
    """
    return DefaultScriptDocument(script=context.inventory.script or None, inventory=str(context.inventory.path))


async def draft(context: Context, request: DraftLaunch) -> Draft:
    """Read a spec against the records and the inventory. Reaches no node.

    Raises:
        InputError: it names a job or a node that does not exist. JobSpecError: its pattern for metrics is too slow.
        SecretMissing: a secret that it needs is not set. SecretExposed: others may read it.
    """
    return await _draft(context, request.spec)


async def plan_launch(context: Context, request: PlanLaunch) -> LaunchPlan:
    """Plan a launch: whether the cluster can run the job, and what the user has to confirm.

    Raises:
        InputError: it names a job or a node that does not exist, or asks for more than the cluster has.
        JobSpecError: its pattern for metrics is too slow.
    """
    found = await foresee(context, request.spec)
    if request.spec.sweep:
        await asyncio.to_thread(_require_arguments, found.draft.spec, request.code.directory)
    questions = (*found.of_owners, question_of_size(request.code), *found.of_memory)
    return LaunchPlan(
        draft=found.draft,
        code=request.code,
        foreign=found.foreign,
        predicted_mib=found.predicted_mib,
        questions=tuple(filter(None, questions)),
        fingerprint=Fingerprint.of(_rests_on(context, found.draft.spec, request.code.directory, found.foreign)),
    )


def _require_arguments(spec: JobSpec, directory: str) -> None:
    """Check that the script has the arguments of a sweep.

    Raises:
        InputError: it has not.
    """
    next(combinations(spec, declared(source_text(Path(directory), spec))))


@dataclass(frozen=True)
class Foreseen:
    """What a new job of a spec meets: nodes of another master, the memory that it needs, and what to ask about both."""

    draft: Draft
    foreign: tuple[ForeignNode, ...]
    predicted_mib: int | None
    of_owners: tuple[Question, ...]
    of_memory: tuple[Question, ...]


async def foresee(context: Context, spec: JobSpec) -> Foreseen:
    """Return what a new job of a spec meets. Changes nothing.

    Raises:
        InputError: it names a job or a node that does not exist, or asks for more than the cluster has.
        JobSpecError: its pattern for metrics is too slow.
    """
    made = await _draft(context, spec)
    controller = (await context.reach()).controller
    views = (await controller.observe([], candidates(made.spec, context.inventory))).views
    foreign = _foreign(context, views)
    capacities = read_capacities(context.store, context.inventory, context.store.jobs.live(stop_where_held), views)
    check_request(made.spec, context.inventory, capacities)
    expected = expect_memory(context.store, made.spec, capacities)
    owners, memory = _question_of_owners(foreign), _question_of_memory(expected)
    return Foreseen(
        made,
        foreign,
        expected.formula_mib if expected else None,
        (owners,) if owners else (),
        (memory,) if memory else (),
    )


async def launch(context: Context, request: Launch) -> JobDocument:
    """Submit the job of a plan, queued or held. A tick after it starts what fits.

    Raises:
        PlanChanged: the code, the nodes or their masters are not as they were. InputError: a question has no answer.
        Declined: an answer is no. NodeError: a node cannot be taken over. StateError: nothing of the job is written.
        JobSpecError: its pattern for metrics is too slow.
    """
    if request.plan.draft.spec.sweep:
        raise InputError("a sweep is several jobs", "launch it by the command: ugro launch --sweep")
    spec, selection = await agreed(context, request.plan, request.answers)
    return await submitted(context, spec, selection, request.plan.predicted_mib)


async def agreed(context: Context, plan: LaunchPlan, answers: Mapping[str, bool]) -> tuple[JobSpec, CodeSelection]:
    """Check that a plan still holds and has consent, and take over the nodes that it names.

    Returns what is to be submitted, with the folder of its code as its `workdir`.

    Raises:
        PlanChanged, InputError, Declined, NodeError, JobSpecError: as `launch` does.
    """
    await _try_pattern(plan.draft.spec)
    foreign = await foreign_now(context, plan.foreign)
    plan.fingerprint.require(_rests_on(context, plan.draft.spec, plan.code.directory, foreign))
    consented(plan.questions, answers)
    if plan.foreign:
        await take_over(context, plan.foreign)
    code = context.brought(plan.code.directory)
    return plan.draft.spec.model_copy(update={"workdir": plan.code.directory}), code.selection


async def submitted(
    context: Context, spec: JobSpec, selection: CodeSelection, predicted_mib: int | None
) -> JobDocument:
    """Submit a job. Where the asker goes away meanwhile the job is there, and named.

    Raises:
        StateError: nothing of the job is written.
    """
    submission = asyncio.to_thread(submit, context.store, spec, selection, predicted_mib)
    making = asyncio.ensure_future(submission)
    try:
        job = await asyncio.shield(making)
    except asyncio.CancelledError:  # the asker is gone, and the job is not: it has to be named
        context.tell(LeftAlone(job=context.document(await making)))
        raise
    return context.document(job)


async def rehearse(context: Context, request: Rehearse) -> Rehearsal:
    """Return what would run on each node. Starts nothing.

    Raises:
        InputError: the cluster has not what the job asks for. NodeError: a node that it needs cannot be read.
        JobSpecError: its pattern for metrics is too slow.
    """
    spec = (await _draft(context, request.spec)).spec
    if spec.sweep:
        spec = next(combinations(spec)).spec
    controller = (await context.reach()).controller
    job = _rehearsed(context, spec)
    jobs = context.store.jobs.live(stop_where_held)
    seen = await controller.observe(jobs)
    live = [await controller.live(each, seen) for each in jobs]
    check_request(spec, context.inventory, read_capacities(context.store, context.inventory, live, seen.views))
    held_by = blockers_of(context.store, job, spec, {each.id: each.state for each in live}, seen.at)
    queue = read_queue(context.store, context.cluster, live, seen.views, seen.at).with_draft(job, spec, held_by)
    waits: tuple[str, ...] = ()
    if not (placement := placement_of(queue, job.id)):
        # What holds it up now would be waited for; the rest of the answer is the same on an idle cluster.
        placement = placement_when_idle(queue, spec)
        waits = tuple(reason_in_words(reason, queue.now) for reason in why(queue, job.id))
    prepared = await controller.launcher.rehearse(job.model_copy(update={"placement": placement}), spec)
    scripts = tuple(
        NodeScript(node=node, launch_sh=text, python=prepared.pythons.get(node, context.inventory.nodes[node].python))
        for node, text in prepared.scripts.items()
    )
    return Rehearsal(scripts=scripts, waits=waits, setup=spec.setup.run if spec.setup else None)


async def _draft(context: Context, spec: JobSpec) -> Draft:
    await _try_pattern(spec)
    await asyncio.to_thread(context.store.secrets.require, spec.secret_names.values())
    if spec.after:
        spec = JobSpec.model_validate(spec.model_dump() | {"after": [_by_id(context, each) for each in spec.after]})
    if spec.one_process and spec.nodes is None:
        spec = spec.model_copy(update={"nodes": 1})  # a gang wants all nodes, a command as typed runs once
    first = namesake(context.store, spec)
    note = "" if first is None else f"there is a job named {first.name} already ({first.id}, {first.state.value})"
    ignored = [
        IgnoredVariable(node=name, variable=variable, reason=reason)
        for name in candidates(spec, context.inventory)
        for variable, reason in without_effect(
            context.inventory.nodes[name].env, spec.gpus_per_node != 0, None if spec.one_process else spec.launcher
        ).items()
    ]
    return Draft(
        spec=spec,
        note=f"{note}; use its ID to mean that one" if note else None,
        exposed=tuple(filter(looks_secret, spec.env)),
        ignored=tuple(ignored),
        inventory=str(context.inventory.path),
    )


async def _try_pattern(spec: JobSpec) -> None:
    """Try a spec's pattern for metrics: it may come from anywhere, and runs over every line of the job's logs."""
    if spec.metrics.pattern:
        try:
            await asyncio.to_thread(try_out, spec.metrics.pattern)
        except ValueError as error:
            raise JobSpecError(f"metrics.pattern: {error}", PATTERN_HINT) from None


def _by_id(context: Context, dependency: str) -> str:
    """Return a dependency with the id of its job, which stays the same when another job gets the name."""
    name, colon, when = dependency.partition(":")
    return f"{context.store.jobs.find(name).id}{colon}{when}"


def _rests_on(context: Context, spec: JobSpec, directory: str, foreign: tuple[ForeignNode, ...]) -> dict[str, Any]:
    """Return what the plan of a launch rests on, as it is now."""
    return {
        f"the code in {printable(directory)}": context.brought(directory).document.digest,
        **nodes_rest_on(context, spec, foreign),
    }


def nodes_rest_on(context: Context, spec: JobSpec, foreign: tuple[ForeignNode, ...]) -> dict[str, Any]:
    """Return what the plan of a new job rests on of its nodes, as they are now."""
    nodes = {name: context.inventory.nodes[name] for name in candidates(spec, context.inventory)}
    return {
        "the nodes": {name: config.model_dump(mode="json") for name, config in nodes.items()},
        "the masters of the nodes": {one.node: one.owner for one in foreign},
    }


def _rehearsed(context: Context, spec: JobSpec) -> Job:
    return Job(
        id=context.store.jobs.next_id(),
        uid="dry-run",
        name=spec.name or "dry-run",
        state=JobState.HELD if spec.hold else JobState.QUEUED,
        submitted_at=time.time(),
        launcher=spec.launcher,
        command=spec.command,
        code=CodeVersion(directory=spec.workdir, files=0, size_bytes=0),
    )


# --- consent ---------------------------------------------------------------------------------------------------------


def _foreign(context: Context, views: Mapping[str, NodeView | NodeError]) -> tuple[ForeignNode, ...]:
    master = context.store.config.master()
    return tuple(
        ForeignNode(node=name, owner=view.owner)
        for name, view in views.items()
        if isinstance(view, NodeView) and view.owner and not owner.is_same_master(view.owner, master)
    )


async def foreign_now(context: Context, planned: tuple[ForeignNode, ...]) -> tuple[ForeignNode, ...]:
    """Observe the nodes that a plan takes over once more.

    Raises:
        NodeError: one of them cannot be read.
    """
    if not planned:
        return ()
    controller = (await context.reach()).controller
    views = (await controller.observe([], [one.node for one in planned])).views
    for view in views.values():
        if isinstance(view, NodeError):
            raise view
    return _foreign(context, views)


async def take_over(context: Context, foreign: tuple[ForeignNode, ...]) -> None:
    """Claim the nodes of another master.

    Raises:
        NodeError: a node cannot be claimed.
    """
    pool, master = (await context.reach()).pool, context.store.config.master()
    names = [one.node for one in foreign]
    for claimed in (await pool.each(names, lambda transport: owner.claim(transport, master, True))).values():
        if isinstance(claimed, NodeError):
            raise claimed


def _question_of_owners(foreign: tuple[ForeignNode, ...]) -> Question | None:
    if not foreign:
        return None
    return Question(
        id=TAKE_OVER,
        text="Take over? The other master can then start nothing there.",
        facts=tuple(f"{one.node} is run by another master: {_who(one.owner)}" for one in foreign),
        refusal=f"another master runs {', '.join(one.node for one in foreign)}",
        hint="two masters do not know of each other's jobs; to make this one the master: --takeover",
        untouched="the other master keeps its nodes, and nothing was submitted",
    )


def _who(line: str) -> str:
    """Return the master of an owner line, for people."""
    return printable(line.partition(" ")[2] or line)


def _question_of_memory(expected: Expectation | None) -> Question | None:
    if expected is None or not expected.warning:
        return None
    return Question(
        id=FIT,
        text="Submit it anyway?",
        facts=(f"memory: {printable(expected.warning)}",),
        refusal="it may not fit into the GPUs' memory",
        hint="use --yes to submit it anyway",
        untouched="nothing was submitted",
    )
