"""When a waiting job will probably start. No I/O."""

from __future__ import annotations

import heapq
import math
from copy import copy
from dataclasses import dataclass

from ugro.common.text import moment, some
from ugro.control_plane.scheduler.backfill import Obstacle, Queue, Round, Waiting
from ugro.control_plane.scheduler.unschedulable import defects, hopeless, unanswered

LOOK_AHEAD = 200
"""A forecast is made behind so many other jobs at most."""

CHAIN = 20
"""A forecast is made for a job that waits, directly or through others, for so many jobs at most."""


@dataclass(frozen=True)
class Forecast:
    """When a job will probably start (None: it cannot be said), and that in words. `never`: not as things are."""

    at: float | None
    text: str
    never: bool = False


def forecast(queue: Queue, job_id: str) -> Forecast:
    """When a job will probably start if those ahead of it go first and run as long as expected.

    Raises:
        InputError: no such job waits.
    """
    turn = Round(queue)
    return _Outlook(turn).forecast(turn.find(job_id))


class _Outlook:
    """What is expected to happen after a round."""

    def __init__(self, turn: Round) -> None:
        self._turn, self._now = turn, turn.queue.now
        self._never = hopeless(turn)
        self._waiting = {job.id: job for job in turn.jobs if job.id not in turn.starts}
        self._ends = {run.id: run.ends for run in turn.running}
        self._known: dict[str, Forecast] = {}

    def forecast(self, job: Waiting) -> Forecast:
        """When the job will probably start, after those that it waits for."""
        chain, todo = {job.id: job}, [job]
        while todo and len(chain) <= CHAIN:
            needed = [one.job for one in todo.pop().obstacles if one.job in self._waiting and one.job not in chain]
            todo += [self._waiting[job_id] for job_id in needed]
            chain |= {one.id: one for one in todo}
        if todo:
            return _unknown(f"it waits for a chain of more than {CHAIN} jobs")
        for one in sorted(chain.values(), key=lambda one: one.order):  # a job waits for earlier ones only
            self._known[one.id] = self._forecast(one)
        return self._known[job.id]

    def _forecast(self, job: Waiting) -> Forecast:
        if job.id in self._turn.starts:
            return Forecast(self._now, "starts at the next scheduling pass")
        if job.id in self._never:
            return Forecast(None, f"it {self._never[job.id]}", never=True)
        earliest, cause = self._now, ""
        for obstacle in job.obstacles:
            if (over := self._over(obstacle)) is None:
                return _unknown(obstacle.text)
            if over > earliest:
                earliest, cause = over, _cause(obstacle)
        if not self._turn.fits_alone(job):
            silent = unanswered(self._turn, job)
            return Forecast(None, silent) if silent else _unknown(defects(self._turn, job))
        if len(self._turn.ahead_of(job)) > LOOK_AHEAD:
            return _unknown(f"more than {LOOK_AHEAD} jobs are ahead of it")
        course = self._course_to(job, earliest)
        if course.at == math.inf:
            return _unknown(course.cause)
        if course.at >= earliest:
            earliest, cause = course.at, course.cause
        provisos = " and ".join(obstacle.proviso for obstacle in job.obstacles if obstacle.proviso)
        begins = f"starts ~{moment(earliest, self._now)}" if earliest > self._now else "starts any moment"
        words = [begins, cause, f"if {provisos}" if provisos else ""]
        return Forecast(earliest, ", ".join(filter(None, words)))

    def _course_to(self, job: Waiting, earliest: float) -> _Course:
        """What happens until the job starts. Others go first, also later ones that start before it may."""
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

    def _over(self, obstacle: Obstacle) -> float | None:
        """When an obstacle will probably be over, if that is known."""
        if obstacle.until is not None:
            return obstacle.until
        if obstacle.job in self._ends:
            return self._ends[obstacle.job]
        if obstacle.job not in self._known:
            return None
        start, seconds = self._known[obstacle.job].at, self._waiting[obstacle.job].seconds
        return None if start is None or seconds is None else start + seconds


class _Course:
    """One course that things may take: jobs start one after the other and run as long as expected.

    `at` is when the last one starts, `cause` what it waits for; infinity with the cause where that is not known.
    """

    def __init__(self, turn: Round) -> None:
        self._turn = turn
        self._room, self._running = turn.room.without(()), turn.endings()
        self.at, self.cause = turn.queue.now, ""

    def fork(self) -> _Course:
        """Another course that is the same so far."""
        other = copy(self)
        other._room, other._running = self._room.without(()), list(self._running)
        return other

    def start(self, job: Waiting) -> None:
        """Let a job start that fits alone, as soon as it fits."""
        placement, ended = self._turn.fit_later(job, self._room, self._running)
        for run in ended:
            if run.ends is None:
                self.at, self.cause = math.inf, f"{run.id} has no time limit and no history"
                return
            self.at = max(self.at, run.ends)
        if ended:
            freed = self._room.nodes_of(ended[-1].keys)
            nodes = [share.node for share in placement.shares if share.node in freed]
            stopping = ", which is stopping," if ended[-1].stopping else ""
            self.cause = f"when {ended[-1].id}{stopping} frees {some(nodes)}"
        run = job.started(placement, self.at)
        self._room.take(run.keys)
        heapq.heappush(self._running, run.ending)


def _cause(obstacle: Obstacle) -> str:
    """Why a job starts when an obstacle is over; a proviso says it already."""
    if obstacle.until is not None:
        return obstacle.cause
    return "" if obstacle.proviso else f"when {obstacle.job} ends"


def _unknown(reason: str) -> Forecast:
    return Forecast(None, f"its start is not known: {reason}")
