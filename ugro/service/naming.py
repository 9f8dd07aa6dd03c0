"""Finds the jobs that the user means: one by one, by a pattern, by a state, or all that a command accepts."""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Iterator, Mapping, Sequence

from ugro.common.errors import InputError, NoSuchJob, RecordUnreadable, UgroError
from ugro.common.job_names import SWEEP_ID, is_pattern
from ugro.common.models.job import Job, Summary
from ugro.common.text import count, printable, some
from ugro.control_plane.scheduler.accepted import accepts
from ugro.service.context import Context
from ugro.service.documents import error_document
from ugro.service.plan import Question
from ugro.service.schemas.naming import ChosenJob, JobSelection, NamedJob, Select

SEVERAL = "several"
"""The question whether a command is to act on all of several jobs."""

ASKS = {
    "cancel": "Cancel",
    "hold": "Hold",
    "release": "Release",
    "reprioritize": "Change the priority of",
    "extend": "Extend the time limit of",
    "approve": "Do what is proposed about",
    "deny": "Deny what is proposed about",
}
"""Commands that act at once, so that several jobs at a time need consent, with the verb of the question."""

ANSWERS = ("approve", "deny")
"""Commands that are about the jobs with a proposal, in whatever state these are."""

LISTED = 20
"""Jobs that are listed before a question."""

_EVERY = "*"


async def select(context: Context, request: Select) -> JobSelection:
    """Return the jobs that references mean for a command. Of several references, a wrong one stops no other.

    Raises:
        InputError: a reference means no job, or none that the command accepts, and it is the only one.
    """
    everything = request.every or bool(request.states and not request.references)
    references = [*request.references, *([_EVERY] if everything else [])]
    found, by_hand = dict[str, NamedJob](), set[str]()
    for reference in references:
        try:
            for one in _meant(context, request, reference):
                found.setdefault(one.job.id if one.job else f"! {one.reference}", one)
                if one.job and not is_pattern(reference):
                    by_hand.add(one.job.id)
        except UgroError as error:
            if len(references) == 1:
                raise
            found.setdefault(f"! {reference}", _refused(reference, error))
    jobs = [one.job for one in found.values() if one.job]
    asked = len(jobs) > 1 and request.command in ASKS and any(job.id not in by_hand for job in jobs)
    question = _question(request, jobs, _proposed(context, request)) if asked else None
    return JobSelection(found=tuple(found.values()), question=question)


def _meant(context: Context, request: Select, reference: str) -> Iterator[NamedJob]:
    """Yield the jobs that one reference means, and those among them whose record is unreadable.

    Raises:
        InputError: it means none.
    """
    if not is_pattern(reference):
        job = context.store.jobs.find(reference)
        if request.states and job.state not in request.states:
            raise InputError(f"{job.id} is {job.state.value}, not {_or(request)}", f"see: ugro status {job.id}")
        yield _chosen(reference, job)
        return
    unreadable = list[RecordUnreadable]()
    whole = request.command == "wait" and SWEEP_ID.fullmatch(reference)  # what ended before is part of its end, too
    like, proposed = context.store.jobs.matching(reference, unreadable.append), _proposed(context, request)

    def fits(job: Job | Summary) -> bool:
        accepted = job.id in proposed if request.command in ANSWERS else whole or accepts(request.command, job)
        return bool(accepted) and (not request.states or job.state in request.states)

    fitting = [job for job in like if fits(job)]
    broken = {error.path.parent.name: error for error in unreadable}
    lost = [_refused(job_id, error) for job_id, error in broken.items() if fnmatch.fnmatchcase(job_id, reference)]
    if not fitting and not lost:
        raise _none(request, reference, like)
    yield from (_chosen(reference, job) for job in fitting)
    yield from lost


def _proposed(context: Context, request: Select) -> Mapping[str, str]:
    """Return by job what is proposed about it, where the command answers that."""
    if request.command not in ANSWERS:
        return {}
    from ugro.control_plane.failure_handler.handler import proposal_in_words  # here, since its import takes long

    return {job: proposal_in_words(one) for job, one in context.store.decisions.unanswered().items()}


def _chosen(reference: str, job: Job | Summary) -> NamedJob:
    return NamedJob(reference=reference, job=ChosenJob(id=job.id, name=job.name, state=job.state))


def _refused(reference: str, error: UgroError) -> NamedJob:
    return NamedJob(reference=reference, job=None, error=error_document(error), exit_code=error.exit_code)


def _or(request: Select) -> str:
    return " or ".join(state.value for state in request.states)


def _none(request: Select, reference: str, like: Sequence[Job | Summary]) -> InputError:
    """Return why a pattern means no job for a command, and what to do."""
    if not like:
        like_it = "" if reference == _EVERY else f" with an id or a name like {printable(reference)!r}"
        return NoSuchJob(
            f"there is no job{like_it}" if like_it else "there are no jobs", "`ugro status --all` lists the jobs"
        )
    states = dict.fromkeys(job.state.value for job in like)
    there = count(len(like), "job") + ("" if reference == _EVERY else f" like {printable(reference)!r}") + ":"
    where = f" that is {_or(request)}" if request.states else ""
    if request.command in ANSWERS:
        about = "any job" if reference == _EVERY else f"any of {there.removesuffix(':')}"
        return InputError(f"nothing is proposed about {about}{where}", "`ugro proposals` lists what is")
    hint = f"see: ugro status {shlex.quote(printable(reference))}"
    return InputError(f"`ugro {request.command}` accepts no job{where} of {there} {some(list(states))}", hint)


def _question(request: Select, jobs: Sequence[ChosenJob], proposed: Mapping[str, str]) -> Question:
    facts = [
        f"{job.id}  {printable(job.name)}  {job.state.value}" + (f": {proposed[job.id]}" if job.id in proposed else "")
        for job in jobs[:LISTED]
    ]
    more = [f"and {len(jobs) - LISTED} more"] if len(jobs) > LISTED else []
    return Question(
        id=SEVERAL,
        text=f"{ASKS[request.command]} these {len(jobs)} jobs?",
        facts=(*facts, *more),
        refusal=f"this is about {len(jobs)} jobs: confirmation needed, but stdin is not a terminal",
        hint=f"use --yes: {_typed(request)} --yes",
    )


def _typed(request: Select) -> str:
    """Return the command as it selects the jobs, without what else it was given."""
    words = ["ugro", request.command, *(shlex.quote(printable(reference)) for reference in request.references)]
    words += ["--all"] if request.every else []
    return " ".join([*words, *(f"--state {state.value}" for state in request.states)])
