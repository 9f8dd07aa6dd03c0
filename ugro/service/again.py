"""A new job like one that was there before, and changes of one that waits."""

from __future__ import annotations

import asyncio
import shlex
from typing import Any

from ugro.common.errors import InputError, UgroError
from ugro.common.job_spec import JobSpec
from ugro.common.models.job import Job
from ugro.control_plane import transitions
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.scheduler.accepted import accepts
from ugro.control_plane.scheduler.command import source_text
from ugro.control_plane.scheduler.submission import own_code
from ugro.nodes.code_sync import CodeSelection
from ugro.service.code import question_of_size
from ugro.service.context import Context
from ugro.service.launch import foreign_now, foresee, nodes_rest_on, submitted, take_over
from ugro.service.plan import Fingerprint, Question, consented
from ugro.service.schemas.again import (
    Edit,
    EditedDocument,
    EditPlan,
    PlanEdit,
    PlanRerun,
    Rerun,
    RerunOptions,
    RerunPlan,
)
from ugro.service.schemas.jobs import JobDocument
from ugro.service.schemas.launch import ForeignNode
from ugro.service.spec_changes import FIXED_IN_WAITING, changed, differences, in_words, next_name
from ugro.service.words import state_in_words

EDIT = "edit"
"""The question whether a job is changed as shown."""

_WHEN: dict[str, Any] = {"hold": False, "after": (), "not_before": None}
"""When the first job was to start, which says nothing about another one."""


# --- a new job like another ------------------------------------------------------------------------------------------


async def plan_rerun(context: Context, request: PlanRerun) -> RerunPlan:
    """Plan a new job with the spec of another and the code that it ran, or code that was brought.

    Raises:
        InputError: there is no such job, its code is not kept any more, or the cluster has not what is asked for.
        JobSpecError: a change makes no sense.
    """
    options = request.options
    job, before, spec, _ = await asyncio.to_thread(_like, context, options)
    found = await foresee(context, spec)
    size = question_of_size(options.code) if options.code else None
    questions = (*found.of_owners, size, *found.of_memory)
    return RerunPlan(
        questions=tuple(filter(None, questions)),
        fingerprint=Fingerprint.of(_rests_on(context, job, before, options, found.draft.spec, found.foreign)),
        options=options,
        job=context.document(job),
        draft=found.draft,
        differences=differences(before, found.draft.spec),
        foreign=found.foreign,
        predicted_mib=found.predicted_mib,
    )


async def rerun(context: Context, request: Rerun) -> JobDocument:
    """Submit the job of a plan, queued or held. A tick after it starts what fits.

    Raises:
        PlanChanged: the job that it is like, the code, the nodes or their masters are not as they were. InputError: a
            question has no answer. Declined: an answer is no. NodeError: a node cannot be taken over. StateError:
            nothing of the job is written.
    """
    plan = request.plan
    job, before, _, selection = await asyncio.to_thread(_like, context, plan.options)
    spec = plan.draft.spec
    foreign = await foreign_now(context, plan.foreign)
    plan.fingerprint.require(_rests_on(context, job, before, plan.options, spec, foreign))
    consented(plan.questions, request.answers)
    if plan.foreign:
        await take_over(context, plan.foreign)
    return await submitted(context, spec, selection, plan.predicted_mib)


def _like(context: Context, options: RerunOptions) -> tuple[Job, JobSpec, JobSpec, CodeSelection]:
    """Return a job, its spec, that of a new one like it, and the code that this one runs."""
    store = context.store
    job = store.jobs.find(options.job)
    before = store.jobs.spec(job.id)
    if options.code:
        code = context.brought(options.code.directory)
        directory, selection = options.code.directory, code.selection
        script = source_text(selection.copy.at if selection.copy else code.directory, before)
    else:
        directory, selection = job.code.directory, own_code(store, job)
        script = source_text(store.jobs.files(job.id).snapshot(job.code.attempt), before)
    again = before.model_copy(update=_WHEN | {"workdir": directory})
    if again.name and "name" not in options.changes.fields:
        again = again.model_copy(update={"name": next_name(again.name, _names(store))})
    return job, before, changed(again, options.changes, script), selection


def _names(store: MetadataStore) -> set[str]:
    return {job.name for job in store.jobs.matching("*")}


def _rests_on(
    context: Context,
    job: Job,
    before: JobSpec,
    options: RerunOptions,
    spec: JobSpec,
    foreign: tuple[ForeignNode, ...],
) -> dict[str, Any]:
    """Return what the plan of a rerun rests on, as it is now."""
    brought = context.brought(options.code.directory).document.digest if options.code else None
    return {
        f"what {job.id} is asked for": [job.uid, before.model_dump(mode="json")],
        "the code": brought or [job.code.attempt, job.code.digest],
        **nodes_rest_on(context, spec, foreign),
    }


# --- changes of a job that waits -------------------------------------------------------------------------------------


async def plan_edit(context: Context, request: PlanEdit) -> EditPlan:
    """Plan changes of a job that waits.

    Raises:
        InputError: there is no such job, it does not wait any more, or the cluster has not what is asked for.
        JobSpecError: a change makes no sense.
    """
    options = request.options
    job = context.store.jobs.find(options.job)
    _require_waiting(job)
    spec = _asked(context, job)
    script = await asyncio.to_thread(_script, context, job, spec)
    edited = changed(spec, options.changes, script, FIXED_IN_WAITING)
    found = None
    if edited != spec:
        found = await foresee(context, edited)
        edited = found.draft.spec
        _require_possible(context, job, spec, edited)
    made = differences(spec, edited)
    questions = (*(found.of_memory if found else ()), *((_question(job),) if made and options.changes.whole else ()))
    return EditPlan(
        questions=questions,
        fingerprint=Fingerprint.of(_edit_rests_on(job, spec)),
        options=options,
        job=context.document(job),
        spec=spec,
        edited=edited,
        differences=made,
        predicted_mib=found.predicted_mib if found else job.predicted_mib,
    )


async def edit(context: Context, request: Edit) -> EditedDocument:
    """Change a job as planned. Its timeline says what was changed, and what it was before.

    Raises:
        InputError: it does not wait any more, or a question has no answer. PlanChanged: it is not as it was.
        Declined: an answer is no.
    """
    plan = request.plan
    consented(plan.questions, request.answers)

    def record() -> Job:
        job = context.store.jobs.job(plan.job.id)
        _require_waiting(job)
        plan.fingerprint.require(_edit_rests_on(job, _asked(context, job)))
        made, spec = plan.differences, plan.edited
        if not made:
            return job
        name = spec.name or job.id
        change = transitions.edit(job, name, spec.priority, spec.command, plan.predicted_mib, in_words(made))
        return context.store.jobs.edit(change, spec)

    job = await context.store.write(record)
    return EditedDocument(**vars(context.document(job)), changes=plan.differences)


def _asked(context: Context, job: Job) -> JobSpec:
    """Return what a job is asked for, with the priority that it has by now."""
    return context.store.jobs.spec(job.id).model_copy(update={"priority": job.priority})


def _script(context: Context, job: Job, spec: JobSpec) -> str:
    try:
        return source_text(context.store.jobs.files(job.id).snapshot(job.code.attempt), spec)
    except UgroError:
        return ""


def _edit_rests_on(job: Job, spec: JobSpec) -> dict[str, Any]:
    return {
        f"the record of {job.id}": [job.uid, job.attempt, job.state.value, job.wish],
        f"what {job.id} is asked for": spec.model_dump(mode="json"),
    }


def _require_waiting(job: Job) -> None:
    if accepts("edit", job):
        return
    end = "" if job.state.ended else f"; to end this one: ugro cancel {job.id}"
    hint = f"add the changes to: ugro rerun {job.id}{end}"
    raise InputError(f"{state_in_words(job)}; only a job that waits can be edited", hint)


def _require_possible(context: Context, job: Job, before: JobSpec, after: JobSpec) -> None:
    """Check what only a job that exists can have wrong: a wait for itself, or ranks that its checkpoint does not fit.

    Raises:
        InputError: it has.
    """
    moved = any(getattr(before, name) != getattr(after, name) for name in ("nodes", "gpus", "gpus_per_node"))
    if job.resume_from and moved:
        hint = f"ugro cancel {job.id}, then: ugro resume {job.id} --nodes …"
        raise InputError(f"{job.id} resumes from a checkpoint, which was saved by other ranks than these", hint)
    seen = set[str]()
    waiting: list[tuple[str, tuple[str, ...]]] = [(each.partition(":")[0], ()) for each in after.after]
    while waiting:
        other, way = waiting.pop()
        if other == job.id:
            through = f" through {', '.join(way)}" if way else ""
            raise InputError(f"{job.id} would wait for itself{through}", "name other jobs in --after")
        if other not in seen:
            seen.add(other)
            spec = context.asked(context.store.jobs.find(other))
            waiting += [(each.partition(":")[0], (*way, other)) for each in (spec.after if spec else ())]


def _question(job: Job) -> Question:
    return Question(
        id=EDIT,
        text=f"Change {job.id} so?",
        refusal="confirmation needed, but stdin is not a terminal",
        hint="use --yes, or options: ugro edit JOB --nodes 2",
        default=True,
    )


# --- for the dashboard -----------------------------------------------------------------------------------------------


def spec_like(store: MetadataStore, like: str, name: str | None, arguments: str | None) -> JobSpec:
    """Return the spec of a job like another: with the code that this one ran, and another name or other arguments.

    Raises:
        InputError: there is no such job, its code was removed, or the name or the arguments cannot be used.
    """
    job = store.jobs.find(like)
    code = store.jobs.files(job.id).snapshot(job.code.attempt)
    if not code.is_dir():
        raise InputError(f"the code of {job.id} is not kept any more", "launch it from its directory: ugro launch")
    fields: dict[str, object] = {"workdir": str(code)}
    if name:
        fields["name"] = name
    try:
        if arguments is not None:
            fields["args"] = tuple(shlex.split(arguments))
        return JobSpec.model_validate(store.jobs.spec(job.id).model_dump() | fields)
    except ValueError as error:
        first = str(error).splitlines()[0][:200]
        raise InputError(f"no job can be launched so: {first}", "arguments are words as a shell reads them") from None
