"""Explains why a job failed or makes no progress: its cause by its logs, what that cost, and how to resume."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from ugro.common.errors import InventoryError
from ugro.common.models.first_failure import FirstFailure
from ugro.common.models.job import Job
from ugro.common.models.job_state import JobState
from ugro.common.text import clock, printable
from ugro.control_plane.diagnosis import Diagnosis, diagnose
from ugro.control_plane.diagnosis.causes import CAUSES, Advice
from ugro.control_plane.metadata_store.log_ends import node_log, rank_log, setup_log
from ugro.control_plane.scheduler.attempts import in_attempt, next_after
from ugro.service.context import Context
from ugro.service.findings import diagnosis_document, words_of
from ugro.service.lost_work import lost_work, of_earlier
from ugro.service.neighbours import neighbours
from ugro.service.observed import observed
from ugro.service.queries import proposed
from ugro.service.schemas.explain import Explain, FailureAnswer, FailureDocument

LOGS_WITHIN = 10.0
"""Seconds that a node has to bring the end of an earlier attempt's logs."""

SETUP_LINES = 10
"""Lines that are quoted from the end of what a setup command printed that failed."""

LAST_WORDS = 5
"""Lines that are quoted from the end of a log that does not say why."""


async def explain(context: Context, request: Explain) -> FailureAnswer:
    """Explain why a job failed. Changes nothing but the logs that are kept here.

    Raises:
        InputError: there is no such job or attempt.
    """
    record = context.store.jobs.find(request.job)
    job = in_attempt(record, request.attempt)
    latest = job.attempt == record.attempt
    with contextlib.suppress(InventoryError):  # without an inventory what is here has to do
        if not latest:
            await _bring_logs(context, job)
        elif record.state.on_nodes:
            job = await observed(context, record)
    found = _found(context, job, record)
    return FailureAnswer(
        answer=await _document(context, job, record, found),
        words=words_of(found),
        job=context.document(job),
        recorded=record.state if latest else job.state,
        proposed=proposed(context.store, {job.id}) if latest else (),
    )


async def _bring_logs(context: Context, job: Job) -> None:
    """Bring the ends of an earlier attempt's logs, where that of the rank that failed never came here."""
    rank = job.first_failure.rank if job.first_failure else None
    if any(context.store.jobs.files(job.id).logs(job.attempt).glob("*.log" if rank is None else f"rank-{rank}.log")):
        return
    controller = (await context.reach()).controller
    with context.store.optional():
        await controller.logs_of(job).bring_ends(LOGS_WITHIN)


def _found(context: Context, job: Job, record: Job) -> Diagnosis | None:
    followed_by = next_after(record, job.attempt)
    found = _finding(context, job, f" --attempt {job.attempt}" if followed_by else "")
    if found and (earlier := next((past for past in record.past if past.attempt == job.attempt), None)):
        return dataclasses.replace(found, consequences=earlier.followed)
    return found


async def _document(context: Context, job: Job, record: Job, found: Diagnosis | None) -> FailureDocument:
    """The record says which rank failed first and why; its log says where and in which words."""
    failure = job.first_failure if found else None
    fields: dict[str, Any] = vars(diagnosis_document(found)) | {
        "job": job.id,
        "state": job.state,
        "attempt": job.attempt,
        "node": (failure.node or None) if failure else None,
        "exit_code": failure.exit_code if failure else None,
        "signal": failure.signal if failure else None,
    }
    if found is None and job.state == JobState.UNKNOWN:
        silent = f"{job.reason or 'one of its nodes is unreachable'}, since {clock(job.unknown_since)}"
        fields |= {"message": silent, "suggestion": "check the node: ugro check; its processes may still run"}
    if followed_by := next_after(record, job.attempt):
        fields |= of_earlier(context, job, followed_by)
    elif found or job.state == JobState.UNKNOWN:
        fields |= await lost_work(context, job, found.cause if found else None)
        if fields["earlier_failures_here"]:
            fields["retry_helps"] = False
    if found and found.cause == "cuda_oom":
        beside, others_fault = neighbours(context.store, job)
        fields["suggestion"] = "; ".join(filter(None, (beside, fields["suggestion"])))
        fields["retry_helps"] = fields["retry_helps"] or others_fault
    return FailureDocument(**fields)


def _finding(context: Context, job: Job, which: str) -> Diagnosis | None:
    """Return why it failed or makes no progress; None if nothing shows that. `which`: the option for its attempt."""
    failure = job.first_failure
    if job.alert and not job.state.ended:
        advice = Advice(
            CAUSES["hang"].words,
            f"show the stack traces: ugro stacks {job.id}; to end it: ugro cancel {job.id}, and ugro explain "
            f"{job.id} then shows how to resume",
            CAUSES["hang"].retry_helps,
        )
        return Diagnosis("hang", job.alert, evidence=(job.alert,), own_advice=advice)
    if job.state == JobState.CANCELLED and failure is None:
        return Diagnosis("cancelled", job.reason or "it was cancelled")
    if job.state not in (JobState.FAILED, JobState.CANCELLED):
        return None
    if failure is None:
        return Diagnosis("unknown", job.reason, evidence=(job.reason,) if job.reason else ())
    found = _in_its_words(job, failure, context.store.jobs.files(job.id).logs(job.attempt), which)
    return dataclasses.replace(found, consequences=job.followed, rank=failure.rank)


def _in_its_words(job: Job, failure: FirstFailure, folder: Path, which: str) -> Diagnosis:
    """Return the finding in the log of the rank (or torchrun's, on the node); if its cause is another, the record's."""
    shares = job.placement.shares if job.placement else ()
    node_rank = next((share.node_rank for share in shares if share.node == failure.node), 0)
    log = node_log(folder, node_rank) if failure.rank is None else rank_log(folder, failure.rank)
    if failure.cause == "setup_failed":
        return _setup_failed(job, failure, folder, node_rank, which)
    if failure.cause == "unknown":
        return _last_words(job, failure, log, which)
    found = diagnose(log, failure.exit_code, failure.signal)
    recorded = Diagnosis(failure.cause, failure.message, evidence=(failure.message,))
    return found if found.cause == failure.cause else recorded


def _setup_failed(job: Job, failure: FirstFailure, folder: Path, node_rank: int, which: str) -> Diagnosis:
    """The setup command failed: its last lines on that node, and how to see all of them."""
    said = [line for text in setup_log(folder, node_rank).splitlines() if (line := printable(text).strip())]
    known = CAUSES[failure.cause]
    read = f"read all of its output: ugro logs {job.id}{which} --setup"
    if not which:
        again = f"ugro {'resume' if job.past else 'rerun'} {job.id} --new-code"
        read += f"; then correct the files that it reads: {again}; or the command: ugro rerun {job.id} --setup COMMAND"
    evidence = (failure.message, *said[-SETUP_LINES:])
    return Diagnosis(
        failure.cause, failure.message, evidence=evidence, own_advice=Advice(known.words, read, known.retry_helps)
    )


def _last_words(job: Job, failure: FirstFailure, log: str, which: str) -> Diagnosis:
    """Return a finding for a log that does not say why: how the process ended, its last lines, and where to look."""
    said = [line for text in log.splitlines()[-100:] if (line := printable(text).strip())]
    rank = "" if failure.rank is None else f" --rank {failure.rank}"
    read = f"read what came before: ugro logs {job.id}{which}{rank} --tail 200"
    code = f"; look in the script for what exits with {failure.exit_code}" if failure.exit_code else ""
    advice = Advice(CAUSES["unknown"].words, read + code, CAUSES["unknown"].retry_helps)
    return Diagnosis("unknown", failure.message, evidence=tuple(said[-LAST_WORDS:]), own_advice=advice)
