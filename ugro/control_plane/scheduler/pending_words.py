"""Pending reasons, forecasts and turns in words: the one place that makes them. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ugro.common.models.job_state import JobState
from ugro.common.text import count, moment, size, some
from ugro.control_plane.scheduler.backfill import ScheduledStart, Turn
from ugro.control_plane.scheduler.forecast import Forecast
from ugro.control_plane.scheduler.pending_reasons import (
    Act,
    AwaitsCircle,
    AwaitsJob,
    AwaitsNodes,
    AwaitsUnschedulable,
    Behind,
    Blocker,
    DependencyUnreadable,
    EndsAs,
    EndUnknown,
    Freed,
    GpuBusy,
    GpuFull,
    GpuLeftOut,
    Holder,
    HolderUnreadable,
    LaunchCutOff,
    LongChain,
    LongQueue,
    NodeHeld,
    NodeRefuses,
    NodesShort,
    NotBefore,
    NotInInventory,
    OnHold,
    Overtaken,
    Prospect,
    Remedy,
    SecretNotSet,
    Starts,
    SweepFull,
    TooFewGpus,
    TooFewInAll,
    TooFewNodes,
    UnmetDependency,
    Unschedulable,
)

_TO_END = {EndsAs.SUCCESS: "succeed", EndsAs.FAILURE: "fail", EndsAs.ANY: "end"}
_ENDS = {EndsAs.SUCCESS: "succeeds", EndsAs.FAILURE: "fails"}
_ENDED = {JobState.SUCCEEDED: "succeeded", JobState.FAILED: "failed", JobState.CANCELLED: "was cancelled"}

_REMEDIES = {
    Act.ADD_NODES: "add nodes to the inventory",
    Act.ADD_NODE_AGAIN: "add {} to the inventory again",
    Act.MEND_NODE: "{}",
    Act.CHECK_NODE: "check {}: ugro check",
    Act.ASK_FOR_LESS: "launch it again for less",
    Act.CHANGE_AFTER: "launch it again with another --after",
    Act.SEE_JOB: "look at that one: ugro why {}",
    Act.SET_SECRET: "ugro secret set {}",
    Act.CANCEL_JOB: "ugro cancel {}",
}


def reason_in_words(reason: Prospect | TooFewNodes | TooFewInAll, now: float, ends: bool = True) -> str:
    """Return a reason in words. Without `ends` they do not say until when slots are held, so they change only with
    the reason.
    """
    match reason:
        case Unschedulable(job=job):
            help_ = some([_remedy(one) for one in reason.remedies], " and ")
            cause = _cause_in_words(reason, now)
            return f"is unschedulable: {cause}; to start it: {help_}, or cancel it: ugro cancel {job}"
        case NodesShort(reasons=reasons):
            return some([reason_in_words(one, now, ends) for one in reasons], "; ")
        case NodeHeld(node=node, holders=holders, cpu=cpu):
            what = f"the CPU of {node}" if cpu else node
            return f"{what} is held by {', '.join(_holder(one, now, ends) for one in holders)}"
        case GpuFull(node=node, gpu=gpu, holders=holders, most=most):
            jobs = ", ".join(_holder(one, now, ends) for one in holders)
            left = "no more may share it" if most else f"{size(reason.left_mib)} of {size(reason.usable_mib)} free"
            return f"{gpu} of {node} is shared by {jobs}: {left}"
        case GpuBusy(node=node, problem=problem) | GpuLeftOut(node=node, problem=problem):
            return f"{node}: {problem}"
        case NodeRefuses(refusal=refusal):
            return refusal
        case NotInInventory(node=node):
            return f"{node} is not in the inventory any more"
        case TooFewGpus(node=node):
            return f"{node} has only {gpus_in_words(reason.gpus, reason.memory_mib, reason.left_out)}"
        case TooFewNodes(wanted=wanted, known=known):
            return f"{count(wanted, 'node')} are requested and the inventory has {known}"
        case TooFewInAll(wanted=wanted, usable=usable, reasons=reasons):
            short = some([reason_in_words(one, now, ends) for one in reasons], "; ")
            return f"{wanted} of {count(usable, 'usable GPU')} are requested" + (f" ({short})" if short else "")
        case Starts():
            return "starts at the next scheduling pass"
        case Behind(jobs=jobs):
            return f"behind {some(jobs)}"
        case Overtaken(short=short):
            return f"{reason_in_words(short, now, ends)} (others go first meanwhile)"
        case _:
            return _other_in_words(reason, now)


def _other_in_words(reason: Blocker | Freed | EndUnknown | LongChain | LongQueue | AwaitsNodes, now: float) -> str:
    match reason:
        case OnHold():
            return "held until it is released"
        case NotBefore(until=until):
            return f"not before {moment(until, now)}"
        case LaunchCutOff(times=times):
            row = f"{times} times in a row, " if times > 1 else ""
            return f"its launch was cut off {row}before anything was started: {reason.reason}"
        case AwaitsJob(job=job, ending=ending):
            return f"waits for {job} to {_TO_END[ending]}"
        case UnmetDependency(job=job, ending=ending, state=state):
            but = "no such job is known" if state is None else f"it {_ENDED[state]}"
            return f"waits for {job} to {_TO_END[ending]}, but {but}"
        case SweepFull(sweep=sweep, limit=limit):
            return f"{sweep} runs {count(limit, 'job')} at a time"
        case DependencyUnreadable(path=path):
            return f"{path} cannot be read"
        case SecretNotSet(secret=secret):
            return f"the secret {secret} is not set"
        case HolderUnreadable(path=path):
            return f"nothing starts while {path} cannot be read"
        case Freed(job=job, nodes=nodes):
            return f"when {job}{', which is stopping,' if reason.stopping else ''} frees {some(nodes)}"
        case EndUnknown(job=job):
            return f"{job} has no time limit and no history"
        case LongChain(limit=limit):
            return f"it waits for a chain of more than {limit} jobs"
        case LongQueue(limit=limit):
            return f"more than {limit} jobs are ahead of it"
        case AwaitsNodes(refusals=refusals, missing=missing, ready=ready):
            when = "enough of them do" if missing < len(refusals) else "it does" if missing == 1 else "they do"
            without = f"; one with --nodes {','.join(ready)} could start now" if ready else ""
            return f"{some(refusals, '; ')}; it starts when {when}{without}"


def forecast_in_words(found: Forecast, now: float) -> str:
    """Return when a job will probably start, and what that depends on."""
    words = reason_in_words(found.reason, now) if found.reason else ""
    match found.reason:
        case Starts() | AwaitsNodes():
            return words
        case Unschedulable():
            return f"it {words}"
    if found.at is None:
        return f"its start is not known: {words}"
    begins = f"starts ~{moment(found.at, now)}" if found.at > now else "starts any moment"
    provisos = " and ".join(f"{one.job} {_ENDS[one.ending]}" for one in found.provisos)
    return ", ".join(filter(None, (begins, _since(found.reason, now), f"if {provisos}" if provisos else "")))


def turn_in_words(start: ScheduledStart) -> str:
    """Return why it is a job's turn to start, as the timeline records it."""
    match start.turn:
        case Turn.OWN:
            return "its turn"
        case Turn.BESIDE_HEAD:
            return f"uses nothing that {start.head} waits for"
        case Turn.BEFORE_HEAD:
            return f"is over before {start.head} can start"


def gpus_in_words(gpus: int, memory_mib: Sequence[int], left_out: Sequence[str]) -> str:
    """Return what GPUs a node has: usable ones with their sizes, and what is wrong with others."""
    sizes = ", ".join(dict.fromkeys(map(size, memory_mib)))
    return ", ".join([count(gpus, "usable GPU") + (f" ({sizes})" if sizes else ""), *left_out])


def _cause_in_words(found: Unschedulable, now: float) -> str:
    match found.cause:
        case AwaitsUnschedulable(dependency=one):
            return f"{reason_in_words(one, now)}, which is unschedulable"
        case AwaitsCircle(dependency=one, itself=itself):
            circle = "itself" if itself else "others that wait for each other"
            return f"{reason_in_words(one, now)}, so it waits for {circle}"
        case cause:
            return reason_in_words(cause, now)


def _remedy(remedy: Remedy) -> str:
    return _REMEDIES[remedy.act].format(remedy.target)


def _holder(holder: Holder, now: float, ends: bool) -> str:
    if holder.stopping:
        return f"{holder.job} (stopping)"
    if not ends or holder.ends == math.inf:
        return holder.job
    until = f"until ~{moment(holder.ends, now)}" if holder.ends > now else "(over its estimate: any moment)"
    return f"{holder.job} {until}"


def _since(reason: Prospect | None, now: float) -> str:
    """Return why a job does not start earlier than forecast; dependencies are left to the provisos."""
    match reason:
        case None:
            return ""
        case NotBefore():
            return "as asked for"
        case LaunchCutOff():
            return f"since {reason_in_words(reason, now)}"
        case AwaitsJob(job=job, ending=ending):
            return f"when {job} ends" if ending == EndsAs.ANY else ""
        case _:
            return reason_in_words(reason, now)
