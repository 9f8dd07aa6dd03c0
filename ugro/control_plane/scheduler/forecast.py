"""Forecast when a waiting job starts. No I/O."""

from __future__ import annotations

import heapq
import math
from copy import copy
from dataclasses import dataclass

from ugro.control_plane.scheduler.backfill import Queue, Round, WaitingJob
from ugro.control_plane.scheduler.pending_reasons import (
    AwaitsJob,
    Blocker,
    EndsAs,
    EndUnknown,
    Freed,
    LaunchCutOff,
    LongChain,
    LongQueue,
    NotBefore,
    Prospect,
    Starts,
    Unschedulable,
)
from ugro.control_plane.scheduler.unschedulable import defects, unanswered, unschedulable

LOOK_AHEAD = 200
"""A forecast is made behind so many other jobs at most."""

CHAIN = 20
"""A forecast is made for a job that waits, directly or through others, for so many jobs at most."""


@dataclass(frozen=True)
class Forecast:
    """Expected start of a job (None: unknown), what it waits for until then, and how other jobs have to end.

    Where the start is unknown, `reason` says why.
    """

    at: float | None
    reason: Prospect | None
    provisos: tuple[AwaitsJob, ...] = ()

    @property
    def never(self) -> bool:
        """Whether the job is unschedulable."""
        return isinstance(self.reason, Unschedulable)


def forecast(queue: Queue, job_id: str) -> Forecast:
    """Forecast the start of a job if those ahead of it go first and run as long as expected.

    Raises:
        InputError: no such job waits.
    """
    turn = Round(queue)
    return _Outlook(turn).forecast(turn.find(job_id))


class _Outlook:
    """Expected events after a round."""

    def __init__(self, turn: Round) -> None:
        self._turn, self._now = turn, turn.queue.now
        self._never = unschedulable(turn)
        self._waiting = {job.id: job for job in turn.jobs if job.id not in turn.starts}
        self._ends = {run.id: run.ends for run in turn.running}
        self._known: dict[str, Forecast] = {}

    def forecast(self, job: WaitingJob) -> Forecast:
        """Forecast the start of the job, after those that it waits for."""
        chain, todo = {job.id: job}, [job]
        while todo and len(chain) <= CHAIN:
            awaited = [one.job for one in todo.pop().blockers if isinstance(one, AwaitsJob)]
            todo += [self._waiting[job_id] for job_id in awaited if job_id in self._waiting and job_id not in chain]
            chain |= {one.id: one for one in todo}
        if todo:
            return Forecast(None, LongChain(CHAIN))
        for one in sorted(chain.values(), key=lambda one: one.order):  # a job waits for earlier ones only
            self._known[one.id] = self._forecast(one)
        return self._known[job.id]

    def _forecast(self, job: WaitingJob) -> Forecast:
        if job.id in self._turn.starts:
            return Forecast(self._now, Starts())
        if job.id in self._never:
            return Forecast(None, self._never[job.id])
        earliest, reason = self._now, None
        for blocker in job.blockers:
            if (over := self._over(blocker)) is None:
                return Forecast(None, blocker)
            if over > earliest:
                earliest, reason = over, blocker
        if not self._turn.fits_alone(job):
            return Forecast(None, unanswered(self._turn, job) or defects(self._turn, job))
        if len(self._turn.ahead_of(job)) > LOOK_AHEAD:
            return Forecast(None, LongQueue(LOOK_AHEAD))
        course = self._course_to(job, earliest)
        if course.at == math.inf:
            return Forecast(None, course.reason)
        provisos = tuple(one for one in job.blockers if isinstance(one, AwaitsJob) and one.ending != EndsAs.ANY)
        if course.at >= earliest:
            return Forecast(course.at, course.reason, provisos)
        return Forecast(earliest, reason, provisos)

    def _course_to(self, job: WaitingJob, earliest: float) -> _Course:
        """Return the course until the job starts. Others go first, also later ones that start before it may."""
        course = _Course(self._turn)
        for other in self._turn.ahead_of(job):
            course.start(other)
        for other in self._turn.behind(job)[:LOOK_AHEAD]:
            if course.at >= earliest:
                break
            trial = course.fork()
            trial.start(other)
            if trial.at < earliest:
                course = trial
        course.start(job)
        return course

    def _over(self, blocker: Blocker) -> float | None:
        """Return when a blocker will probably be over, if it is known."""
        match blocker:
            case NotBefore(until=until) | LaunchCutOff(until=until):
                return until
            case AwaitsJob(job=job) if job in self._ends:
                return self._ends[job]
            case AwaitsJob(job=job) if job in self._known:
                start, seconds = self._known[job].at, self._waiting[job].seconds
                return None if start is None or seconds is None else start + seconds
        return None


class _Course:
    """One course that things may take: jobs start one after the other and run as long as expected.

    `at` is when the last one starts, `reason` what it waits for; infinity with the reason where that is unknown.
    """

    def __init__(self, turn: Round) -> None:
        self._turn = turn
        self._room, self._running = turn.room.copy(), turn.endings()
        self.at = turn.queue.now
        self.reason: Freed | EndUnknown | None = None

    def fork(self) -> _Course:
        """Another course that is the same so far."""
        other = copy(self)
        other._room, other._running = self._room.copy(), list(self._running)
        return other

    def start(self, job: WaitingJob) -> None:
        """Let a job start that fits alone, as soon as it fits."""
        placement, ended = self._turn.fit_later(job, self._room, self._running)
        for run in ended:
            if run.ends is None:
                self.at, self.reason = math.inf, EndUnknown(run.id)
                return
            self.at = max(self.at, run.ends)
        if ended:
            freed = self._room.nodes_of(ended[-1].keys)
            nodes = tuple(share.node for share in placement.shares if share.node in freed)
            self.reason = Freed(ended[-1].id, nodes, ended[-1].stopping)
        run = job.started(placement, self.at)
        self._room.take(run.keys, run.id, run.shared_mib)
        heapq.heappush(self._running, run.ending)
