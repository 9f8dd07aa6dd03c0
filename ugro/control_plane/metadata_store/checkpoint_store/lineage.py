"""Find the attempt of a job that saved a checkpoint, and the lineage of its latest attempt: pure functions.

A job that resumed from an earlier checkpoint than its last has branches: a checkpoint saved after that one and before
the new attempt is of a run that the new attempt does not continue.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ugro.common.models.checkpoint import Checkpoint
from ugro.common.models.job import Attempt, Job

CLOCK_SLACK = 2.0
"""Seconds that a node's clock may differ from what was measured."""


@dataclass(frozen=True)
class Position:
    """Position of a checkpoint: its step and its epoch, as far as they are known."""

    step: int | None
    epoch: int | None

    def reaches(self, other: Position) -> bool:
        """Whether it is as far as another one, or further; False where they cannot be compared."""
        mine, its = (self.epoch, self.step), (other.epoch, other.step)
        shared = [(a, b) for a, b in zip(mine, its, strict=True) if a is not None and b is not None]
        return bool(shared) and tuple(a for a, _ in shared) >= tuple(b for _, b in shared)


@dataclass(frozen=True)
class WritingAttempt:
    """An attempt: since when it may have written (the master's clock; None: it never did), its nodes, its number of
    ranks, and the attempt whose checkpoint it resumed from."""

    attempt: int
    since: float | None
    nodes: tuple[str, ...] = ()
    ranks: int | None = None
    source: int | None = None
    at: Position | None = None


def runs_of(job: Job) -> list[WritingAttempt]:
    """The attempts of a job, the first one first."""
    runs: list[WritingAttempt] = []
    ended: float | None = None
    attempts: list[Attempt | Job] = [*job.past, job]
    for one in attempts:
        runs.append(_run(one, job.submitted_at, ended))
        ended = one.ended_at or ended
    return runs


def _run(one: Attempt | Job, submitted_at: float, ended_before: float | None) -> WritingAttempt:
    """An attempt before this version does not say when it was launched: after the one before it ended.

    The boundary to the attempt before is halfway between its end and this launch, since clocks are known so well only.
    """
    launched = one.launched_at
    if ended_before is None:
        since = submitted_at if launched is None else launched - CLOCK_SLACK
    else:
        since = ended_before if launched is None else max(launched - CLOCK_SLACK, (launched + ended_before) / 2)
    began = one.resume_from if isinstance(one, Job) else one
    told = began is not None and (began.step is not None or began.epoch is not None)
    saved_by = one.source if isinstance(one, Attempt) else one.resume_from and one.resume_from.attempt
    return WritingAttempt(
        attempt=one.attempt,
        since=since if one.placement else None,
        nodes=tuple(share.node for share in one.placement.shares) if one.placement else (),
        ranks=one.placement.world_size if one.placement else None,
        source=(saved_by or one.attempt - 1 or None) if told else None,
        at=Position(began.step, began.epoch) if told and began else None,
    )


def writer(runs: Sequence[WritingAttempt], saved_at: float, nodes: Collection[str]) -> int | None:
    """Return the attempt that saved a checkpoint on some nodes; None: it was there before the first attempt.

    It is the latest that was launched before. An attempt without a part on a node wrote nothing there, even while an
    abandoned attempt still runs there.
    """
    begun = [run for run in runs if run.since is not None and run.since <= saved_at]
    there = [run for run in begun if not set(nodes).isdisjoint(run.nodes)]
    return max((run.attempt for run in there or begun), default=None)


def lineage(runs: Sequence[WritingAttempt]) -> dict[int, Position | None]:
    """The attempts that the latest one goes back to, and how far each counts; None: all of it."""
    by_attempt = {run.attempt: run for run in runs}
    run = runs[-1]
    found: dict[int, Position | None] = {run.attempt: None}
    limit: Position | None = None
    while run.source is not None and run.at and run.source in by_attempt and run.source not in found:
        limit = run.at if limit is None or limit.reaches(run.at) else limit
        found[run.source] = limit
        run = by_attempt[run.source]
    return found


def of_other_branch(one: Checkpoint, attempt: int | None, known: Mapping[int, Position | None]) -> bool:
    """Whether a checkpoint is of an attempt, or of a part of one, that the latest attempt does not go back to."""
    if attempt is None:
        return False
    limit = known.get(attempt)
    return attempt not in known or (limit is not None and not limit.reaches(Position(one.step, one.epoch)))
