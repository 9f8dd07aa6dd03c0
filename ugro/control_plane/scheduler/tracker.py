"""Derive a job's state from the nodes' files: pure functions, so that CLI, cron and tests reach the same verdict."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ugro.common.errors import NodeError
from ugro.common.job_spec import agent_of
from ugro.common.models.job import Job, LimitMark, NodeShare, Rank
from ugro.common.models.job_state import RankState
from ugro.common.models.node import NodeView
from ugro.common.models.run import RankFiles, RunFiles
from ugro.common.text import count

SETTLE_SECONDS = 15.0
"""Seconds in which torchrun may exit after the last rank ended well. A late agent can hang in its exit barrier."""

Runs = Mapping[str, RunFiles | NodeError]
"""Each node's report of a job's run, or why there is none."""


class Phase(StrEnum):
    """State of a job by its nodes together."""

    RUNNING = "running"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Assessment:
    """The ranks as they are, the phase they add up to, and the reason in words."""

    phase: Phase
    ranks: tuple[Rank, ...]
    reason: str = ""


def expected_ranks(job: Job) -> tuple[Rank, ...]:
    """The ranks of a placement before anything is known of them."""
    return tuple(
        Rank(
            rank=share.first_rank + local,
            local_rank=local,
            node=share.node,
            gpu=share.gpus[local] if share.gpus else None,
        )
        for share in (job.placement.shares if job.placement else ())
        for local in range(share.nproc)
    )


def assess(job: Job, runs: Runs) -> Assessment:
    """Assess a launched job by its nodes' reports.

    A node that cannot be read proves nothing: its ranks stay as they were known, and the job is unknown unless all of
    them had ended before. Every rank's own exit code decides; torchrun's matters only where ranks left none.
    """
    known = {rank.rank: rank for rank in job.ranks or expected_ranks(job)}
    ranks: list[Rank] = []
    unread: list[str] = []
    for share in job.placement.shares if job.placement else ():
        run = runs[share.node]
        mine = [known[share.first_rank + local] for local in range(share.nproc)]
        if isinstance(run, NodeError):
            ranks += mine
            if any(rank.state in (RankState.PENDING, RankState.RUNNING) for rank in mine):
                unread.append(run.message)
        else:
            ranks += [_seen(rank, share, run) for rank in mine]
    return _judge(tuple(ranks), unread, runs, agent_of(job.launcher))


def _seen(rank: Rank, share: NodeShare, run: RunFiles) -> Rank:
    files = next((files for files in run.ranks if files.rank == rank.rank), None)
    over = run.over or not run.claimed
    if files is None:
        return rank.model_copy(update={"state": RankState.LOST if over else RankState.PENDING})
    return rank.model_copy(
        update={
            "pid": files.pid,
            "state": _state(files, over),
            "exit_code": files.exit_code,
            "signal": files.signal,
            "ended_at": files.ended_at,
            "limit": files.limit,
            "oom": files.oom,
        }
    )


def _state(files: RankFiles, over: bool) -> RankState:
    if files.ended:
        return RankState.SUCCEEDED if files.exit_code == 0 else RankState.FAILED
    # Between the end of the script and its exit file a rank is seen as gone; but then torchrun still runs.
    return RankState.LOST if over and not files.alive else RankState.RUNNING


def _judge(ranks: tuple[Rank, ...], unread: list[str], runs: Runs, agent: str) -> Assessment:
    read = {node: run for node, run in runs.items() if isinstance(run, RunFiles)}
    bad = [rank for rank in ranks if rank.state in (RankState.FAILED, RankState.LOST)]
    if unread:  # its node may have failed before the ranks that are seen to have failed
        return Assessment(Phase.UNKNOWN, ranks, "; ".join([*map(_rank_in_words, bad), *unread]))
    if all(rank.state == RankState.SUCCEEDED for rank in ranks):
        leaving = [node for node, run in read.items() if run.runner_alive and not run.over and not _settled(run)]
        reason = f"{agent} is leaving on {', '.join(leaving)}" if leaving else ""
        return Assessment(Phase.RUNNING if leaving else Phase.SUCCEEDED, ranks, reason)
    if bad or any(run.over for run in read.values() if not _all_done(run)):
        return Assessment(Phase.FAILED, ranks, "; ".join(_rank_in_words(rank) for rank in bad))
    return Assessment(Phase.RUNNING, ranks)


def _all_done(run: RunFiles) -> bool:
    return bool(run.ranks) and all(files.exit_code == 0 for files in run.ranks)


def _settled(run: RunFiles) -> bool:
    return run.node_time - max((files.ended_at or 0.0 for files in run.ranks), default=0.0) > SETTLE_SECONDS


def _rank_in_words(rank: Rank) -> str:
    how = (
        f"exit code {rank.exit_code}" if rank.exit_code is not None else f"SIG{rank.signal}" if rank.signal else "lost"
    )
    return f"rank {rank.rank} on {rank.node}: {how}"


def news_of_ranks(before: tuple[Rank, ...], now: tuple[Rank, ...]) -> str:
    """Return the changes of ranks between two observations: `rank 0 on gpu1 ended with exit 0; 2 ranks started`."""
    was = {rank.rank: rank for rank in before}
    told: dict[str, list[Rank]] = {}
    for rank in now:
        if (old := was.get(rank.rank)) != rank:
            told.setdefault(_became(old, rank), []).append(rank)
    names = {words: f"rank {ranks[0].rank} on {ranks[0].node}" for words, ranks in told.items() if len(ranks) == 1}
    return "; ".join(f"{names.get(words) or count(len(ranks), 'rank')} {words}" for words, ranks in told.items())


def _became(old: Rank | None, rank: Rank) -> str:
    if old and old.state == rank.state and old.limit != rank.limit:
        return _LIMITS.get(rank.limit, "reached the time limit")
    if rank.state == RankState.FAILED:
        return f"ended by SIG{rank.signal}" if rank.signal else f"ended with exit {rank.exit_code}"
    return _STATES[rank.state]


_LIMITS = {
    None: "has a later time limit",
    LimitMark.WARNED: "got SIGUSR2 before the time limit",
    LimitMark.UNHEARD: "got no SIGUSR2 before the time limit: none is caught",
}
_STATES = {
    RankState.PENDING: "has not started",
    RankState.RUNNING: "started",
    RankState.SUCCEEDED: "ended with exit 0",
    RankState.LOST: "vanished without an exit code",
}


def without_word_of(given_up: Collection[str], ranks: tuple[Rank, ...]) -> tuple[Rank, ...]:
    """The ranks, with those that were not seen to end on nodes that were given up counted as lost."""
    open_ = (RankState.PENDING, RankState.RUNNING)
    return tuple(
        rank.model_copy(update={"state": RankState.LOST}) if rank.node in given_up and rank.state in open_ else rank
        for rank in ranks
    )


def unstarted(job: Job, ranks: tuple[Rank, ...], runs: Runs) -> tuple[Rank, ...]:
    """The ranks, with those counted as not started whose node never began its part of a job that never ran."""
    if job.started_at is not None:
        return ranks
    never = {node for node, run in runs.items() if isinstance(run, RunFiles) and not run.claimed}
    return tuple(
        rank.model_copy(update={"state": RankState.PENDING})
        if rank.node in never and rank.state == RankState.LOST and rank.pid is None
        else rank
        for rank in ranks
    )


def lost_first(ranks: tuple[Rank, ...], runs: Runs, first: int | None) -> tuple[Rank, ...]:
    """The ranks, with the one that failed first counted as lost where its process is gone and left no exit code."""
    gone = {
        files.rank
        for run in runs.values()
        for files in (run.ranks if isinstance(run, RunFiles) else ())
        if files.rank == first and not (files.alive or files.ended)
    }
    return tuple(rank.model_copy(update={"state": RankState.LOST}) if rank.rank in gone else rank for rank in ranks)


def end_of_ranks(ranks: Iterable[Rank], clock_offsets: Mapping[str, float]) -> float | None:
    """Return when the last rank ended, by the master's clock; None when none left a time."""
    return max(
        (rank.ended_at - clock_offsets.get(rank.node, 0.0) for rank in ranks if rank.ended_at is not None), default=None
    )


def failed_before(ranks: Iterable[Rank], moment: float, clock_offsets: Mapping[str, float]) -> bool:
    """Whether a rank had failed by a moment of the master's clock, and so not because of what was done from then on."""
    return any(
        rank.state == RankState.FAILED
        and rank.ended_at is not None
        and rank.ended_at - clock_offsets.get(rank.node, 0.0) < moment
        for rank in ranks
    )


def gpu_holders(job: Job, views: Mapping[str, NodeView | NodeError]) -> list[str]:
    """Return in words the GPUs of a job that the driver still shows as used by one of its ranks."""
    pids = {(rank.node, rank.pid) for rank in job.ranks}
    leased = {uuid for share in (job.placement.shares if job.placement else ()) for uuid in share.gpus}
    return [
        f"{view.node}: {gpu.name} is still held by pid {process.pid}"
        for view in views.values()
        if isinstance(view, NodeView)
        for gpu in view.gpus
        if gpu.uuid in leased
        for process in gpu.processes
        if (view.node, process.pid) in pids
    ]
